// The rooms of an evaluation alone: prompt forms, encoding, windows, draws, errors of figures, side-by-side work, charts.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ChaiError } from '../../lib/errors';
import { evaluationChart, ticksOf } from '../../lib/evaluate/chart';
import { type Encoder, encodeQuestion } from '../../lib/evaluate/encode';
import { cleanHellaswag, readQuestion, solved, type TaskName, taskForms } from '../../lib/evaluate/formats';
import { compareRows, logProbability } from '../../lib/evaluate/logits';
import { drawIndexes, Reservoir, randomNumbers } from '../../lib/evaluate/random';
import { mapConcurrently, Room } from '../../lib/evaluate/room';
import { sharedLength } from '../../lib/evaluate/scorer';
import { difference, estimate } from '../../lib/evaluate/statistics';
import type { TaskResult } from '../../lib/evaluate/types';
import { readWindows, windowsOf } from '../../lib/evaluate/windows';

const near = (found: number, expected: number, what = '') =>
  assert.ok(Math.abs(found - expected) < 1e-12 * Math.max(1, Math.abs(expected)), `${what} ${found}, expected ${expected}`);

/** What lm-evaluation-harness builds of these, written out by hand. */
test('each task gives the harness its context and continuations', () => {
  const cases: [TaskName, object, string, string[], number][] = [
    ['piqa', { query: 'Question: How?\n', choices: ['a', 'b'], gold: 1 }, 'Question: How?\nAnswer:', [' a', ' b'], 1],
    ['piqa', { goal: 'How?', sol1: 'a', sol2: 'b', label: 1 }, 'Question: How?\nAnswer:', [' a', ' b'], 1],
    ['arc_easy', { query: 'Question: Q?', choices: ['x', 'y', 'z'], gold: 2 }, 'Question: Q?\nAnswer:', [' x', ' y', ' z'], 2],
    [
      'arc_challenge',
      { question: 'Q?', choices: { text: ['x', 'y'], label: ['A', 'B'] }, answerKey: 'B' },
      'Question: Q?\nAnswer:',
      [' x', ' y'],
      1,
    ],
    ['boolq', { passage: 'P.', question: 'is it', answer: true }, 'P.\nQuestion: is it?\nAnswer:', [' no', ' yes'], 1],
    ['hellaswag', { query: 'A: b [title] C [x]', choices: ['d [title] e', 'f'], gold: 0 }, 'A: b. C ', [' d. e', ' f'], 0],
    [
      'hellaswag',
      { activity_label: 'Run', ctx_a: 'He ran.', ctx_b: 'the Dog', endings: ['a', 'b'], label: '1' },
      'Run: He ran. The dog',
      [' a', ' b'],
      1,
    ],
    ['lambada', { context: 'a b', continuation: 'c' }, 'a b', [' c'], 0],
    ['lambada', { text: 'a b\nc d' }, 'a b\nc', [' d'], 0],
    ['blimp', { good: 'G.', bad: 'B.' }, '', [' G.', ' B.'], 0],
    ['choice', { query: 'Q ', choices: ['a', 'b'], gold: 0 }, 'Q', [' a', ' b'], 0],
  ];
  for (const [task, item, context, continuations, gold] of cases) {
    const question = readQuestion(taskForms[task], item);
    if (typeof question === 'string') throw new Error(question);
    assert.equal([question.context, question.continuations, question.gold], [context, continuations, gold], JSON.stringify(item));
  }
});

test('items that do not fit their task are told why', () => {
  const refused = (task: TaskName, item: unknown, words: RegExp) => {
    const question = readQuestion(taskForms[task], item);
    assert.type(question, 'string', JSON.stringify(item));
    assert.match(question as string, words);
  };
  refused('piqa', { text: 'x' }, /"query" or "goal"/);
  refused('piqa', null, /expected an object/);
  refused('piqa', { query: 'q', choices: ['a', 'b'], gold: 2 }, /gold: 2, but there are 2/);
  refused('piqa', { query: 'q', choices: ['a'], gold: 0 }, /choices/);
  refused('piqa', { query: 'q', choices: ['a', ''], gold: 0 }, /choices\.1/);
  refused('piqa', { query: 'q', choices: ['a', 'b'], gold: '0' }, /gold/);
  refused('lambada', { context: 'a', continuation: '' }, /continuation/);
  refused('lambada', { text: 'word' }, /several words/);
  refused('arc_easy', { question: 'q', choices: { text: ['a', 'b'], label: ['A', 'B'] }, answerKey: 'C' }, /answerKey: C/);
});

test("HellaSwag's clean-up is the harness's", () => {
  assert.is(cleanHellaswag(' How to [title] do  it. [step] Now [substeps]go  on.\n'), 'How to. do it. Now go on.');
  assert.is(cleanHellaswag('a    b'), 'a  b'); // pairs of blanks become one, once
});

test('a solved question stands as the model should have gone on', () => {
  assert.is(solved({ context: 'Q\nAnswer:', continuations: [' a', ' b'], gold: 1, texts: ['a', 'b'] }), 'Q\nAnswer: b');
});

/** One id a letter, with a token (99) that joins "x y", and 7 before every text. */
const letters: Encoder = {
  prefixTokenId: 5,
  encode: (text, { addSpecialTokens = true } = {}) => [
    ...(addSpecialTokens ? [7] : []),
    ...(text.match(/x y|[\s\S]/g) ?? []).map((part) => (part === 'x y' ? 99 : part.charCodeAt(0))),
  ],
};
const codes = (text: string) => Array.from(text, (letter) => letter.charCodeAt(0));

test('a continuation is what it adds to the ids of its context', () => {
  const limits = { addSpecialTokens: true, contextLength: 100 };
  const encoded = (context: string, continuation: string, given = limits) => {
    const [one] = encodeQuestion(context, [continuation], letters, given) ?? [];
    return one && { ids: [...one.ids], from: one.from, truncated: one.truncated };
  };
  assert.equal(encoded('ab', ' c'), { ids: [7, ...codes('ab c')], from: 3, truncated: false });
  assert.equal(encoded('ab \n', ' c'), { ids: [7, ...codes('ab \n c')], from: 3, truncated: false }, 'blanks go to the continuation');
  assert.equal(encoded('', ' c'), { ids: [5, ...codes(' c')], from: 1, truncated: false }, 'the prefix token stands for no context');
  assert.equal(encoded('ab', ' c', { addSpecialTokens: false, contextLength: 100 })?.ids, codes('ab c'));
  // The joining token swallows the border: of ids(context) as many are cut off, and nothing is left to score but the rest.
  assert.equal(encoded('ax', ' yz'), { ids: [7, ...codes('ax'), ...codes('z')], from: 3, truncated: false });
  assert.equal(encoded('ax', ' y'), { ids: [7, ...codes('ax y')], from: 3, truncated: false });
});

test('a context that is too long loses its beginning; a continuation that is too long does not fit', () => {
  const limits = { addSpecialTokens: false, contextLength: 4 };
  const [one] = encodeQuestion('abcdef', [' g'], letters, limits) ?? [];
  assert.equal([[...(one?.ids ?? [])], one?.from, one?.truncated], [codes('ef g'), 2, true]);
  assert.is(encodeQuestion('a', [' ', ' bcd'], letters, limits), undefined);
  assert.throws(
    () => encodeQuestion('', [' a'], { ...letters, prefixTokenId: undefined }, limits),
    (error: unknown) => error instanceof ChaiError && error.code === 'OPTION_INVALID' && /bos_token_id/.test(error.message),
  );
});

test('windows score each token but the first exactly once, with at least window - stride tokens before it', () => {
  fc.assert(
    fc.property(fc.nat(300), fc.integer({ min: 2, max: 60 }), fc.nat(100), fc.boolean(), (length, window, wish, special) => {
      const stride = 1 + (wish % window);
      const before = Int32Array.from(special && window > 2 ? [-1] : []);
      const room = window - before.length;
      const ids = Int32Array.from({ length }, (_, i) => i);
      const told: number[] = [];
      for (const { ids: part, from } of windowsOf(ids, before, { window, stride })) {
        assert.ok(part.length <= window && from >= 1 && from < part.length);
        assert.equal([...part.subarray(0, before.length)], [...before]);
        const scored = [...part.subarray(from)];
        told.push(...scored);
        const first = scored[0] as number;
        const context = from - before.length;
        assert.ok(context === first || context >= Math.min(room - stride, first), `context ${context} before ${first}`);
        assert.equal(
          [...part.subarray(before.length, from)],
          Array.from({ length: context }, (_, i) => first - context + i),
        );
      }
      assert.equal(
        told,
        Array.from({ length: Math.max(0, length - (before.length > 0 ? 0 : 1)) }, (_, i) => i + (before.length > 0 ? 0 : 1)),
      );
    }),
    { numRuns: 300 },
  );
});

test('windows kept of a text do not keep the text', async () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-windows-'));
  try {
    const file = path.join(folder, 'text.txt');
    fs.writeFileSync(file, Array.from({ length: 20 }, (_, i) => `${i} `.repeat(500)).join('\f'));
    const encode = async (text: string) => Int32Array.from(text.slice(0, 1000), (letter) => letter.charCodeAt(0));
    const options = { window: 10, stride: 10, addSpecialTokens: false, limit: 5, seed: 1 };
    const { windows, available } = await readWindows(file, { encode }, options);
    assert.is(windows.length, 5);
    assert.is(available, 20 * 111); // the first scores 9 tokens, each other one 9 that are new
    for (const { ids } of windows) assert.is(ids.buffer.byteLength, ids.byteLength);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
});

test('draws follow the seed, keep their order, and are uniform', () => {
  const draw = (seed: number) => {
    const sample = new Reservoir<number>(5, randomNumbers(seed));
    for (let i = 0; i < 50; ++i) sample.offer(i);
    return sample.items;
  };
  assert.equal(draw(3), draw(3));
  assert.not.equal(draw(3), draw(4));
  assert.equal(
    draw(3),
    draw(3).toSorted((a, b) => a - b),
  );
  const counts = new Array(50).fill(0);
  for (let seed = 0; seed < 4000; ++seed) for (const item of draw(seed)) counts[item]++;
  // 400 each is expected, with a standard deviation of 19; 50 counts within 5 of them.
  assert.ok(Math.min(...counts) > 305 && Math.max(...counts) < 495, `${Math.min(...counts)} to ${Math.max(...counts)}`);
});

test('examples never hold the item itself', () => {
  for (let seed = 0; seed < 200; ++seed) {
    const drawn = drawIndexes(4, 6, seed % 6, randomNumbers(seed));
    assert.is(new Set(drawn).size, 4);
    assert.ok(!drawn.includes(seed % 6) && drawn.every((index) => index >= 0 && index < 6));
  }
  assert.is(drawIndexes(9, 4, 1, randomNumbers(1)).length, 3);
});

test('a mean has the standard error of the textbook; a paired difference that of the differences', () => {
  const [a, b] = [
    [1, 0, 1, 1, 0, 1],
    [1, 0, 0, 1, 0, 0],
  ];
  const ones = a.map(() => 1);
  const samples = (sums: number[]) => ({ sums, weights: ones, scale: 'mean' as const });
  near(estimate(samples(a)).value, 4 / 6);
  near(estimate(samples(a)).standardError, Math.sqrt((4 * (1 / 3) ** 2 + 2 * (2 / 3) ** 2) / 5 / 6));
  const found = difference(samples(b), samples(a));
  near(found.value, -2 / 6);
  near(found.standardError, Math.sqrt((2 * (2 / 3) ** 2 + 4 * (1 / 3) ** 2) / 5 / 6));
  near(difference(samples(a), samples(a)).standardError, 0);
  assert.ok(Number.isNaN(estimate(samples([1])).standardError || Number.NaN));
});

test('perplexity is exp of the mean over all tokens; its error is that of repeated draws', () => {
  const weights = [10, 20, 30];
  const sums = [20, 50, 90];
  const { value } = estimate({ sums, weights, scale: 'exponential' });
  near(value, Math.exp(160 / 60));
  // Many texts of 400 windows each, windows of uneven length: the spread of their perplexities is what the error should say.
  const random = randomNumbers(11);
  const windows = () => Array.from({ length: 400 }, () => ({ tokens: 5 + Math.floor(random() * 20), nats: 2 + random() }));
  const texts = Array.from({ length: 400 }, () => {
    const drawn = windows();
    return estimate({
      sums: drawn.map(({ tokens, nats }) => tokens * nats),
      weights: drawn.map(({ tokens }) => tokens),
      scale: 'exponential',
    });
  });
  const mean = texts.reduce((sum, text) => sum + text.value, 0) / texts.length;
  const spread = Math.sqrt(texts.reduce((sum, text) => sum + (text.value - mean) ** 2, 0) / (texts.length - 1));
  const told = texts.reduce((sum, text) => sum + text.standardError, 0) / texts.length;
  assert.ok(Math.abs(told / spread - 1) < 0.15, `told ${told}, seen ${spread}`);
});

test('rows of logits: log-probability, likeliest token, divergence', () => {
  const row = Float32Array.from([Math.log(1), Math.log(2), Math.log(5)].map((value) => value + 700));
  assert.ok(Math.abs(logProbability(row, 1).logProbability - Math.log(2 / 8)) < 1e-4);
  assert.equal([logProbability(row, 1).isLargest, logProbability(row, 2).isLargest], [false, true]);
  const other = Float32Array.from([Math.log(2), Math.log(2), Math.log(1)]);
  const { sameLargest, divergence } = compareRows(row, other);
  const p = [1 / 8, 2 / 8, 5 / 8];
  const q = [2 / 5, 2 / 5, 1 / 5];
  assert.ok(Math.abs(divergence - p.reduce((sum, each, i) => sum + each * Math.log(each / (q[i] as number)), 0)) < 1e-4);
  assert.is(sameLargest, false);
  assert.equal(compareRows(row, row), { sameLargest: true, divergence: 0 });
});

test('what continuations share ends before the first scored token', () => {
  const sequence = (ids: number[], from: number) => ({ ids: Int32Array.from(ids), from });
  assert.is(sharedLength([sequence([1, 2, 3, 4], 3), sequence([1, 2, 3, 5, 6], 3)]), 3);
  assert.is(sharedLength([sequence([1, 2, 3, 4], 2), sequence([1, 2, 3, 5], 3)]), 2);
  assert.is(sharedLength([sequence([1, 2, 3], 2), sequence([1, 9, 3], 2)]), 1);
});

test('work side by side keeps to its room, its order and its first failure', async () => {
  const room = new Room(10);
  let [inside, most] = [0, 0];
  const results = await mapConcurrently([3, 9, 4, 20, 1, 6, 6], 7, (need) =>
    room.with(need, async () => {
      inside += Math.min(need, 10);
      most = Math.max(most, inside);
      await new Promise((resolve) => setTimeout(resolve, 2));
      inside -= Math.min(need, 10);
      return need;
    }),
  );
  assert.equal(results, [3, 9, 4, 20, 1, 6, 6]);
  assert.ok(most <= 10);
  let begun = 0;
  const failed = mapConcurrently([0, 1, 2, 3, 4, 5], 2, async (item) => {
    ++begun;
    if (item === 1) throw new Error('second');
  });
  await failed.then(
    () => assert.unreachable(),
    (error) => assert.is(error.message, 'second'),
  );
  assert.ok(begun <= 4);
});

test('a chart shows each column once, escaped, within its axis', () => {
  const result = (attention: string, value: number) => ({
    attention,
    figures: [{ name: 'accuracy' as const, value, standardError: 0.02, higherIsBetter: true }],
    cacheBytes: { keys: 1, values: 1, denseKeys: 1, denseValues: 1 },
    tokens: 1,
  });
  const task: TaskResult = {
    ...{ task: 'piqa', file: 'a/<b>.jsonl', items: 10, available: 20, tooLong: 0, shots: 0, truncated: 0, chance: 0.5 },
    results: [result('dense', 0.6), result('a & b', 0.58)],
  };
  const svg = evaluationChart({ tasks: [task] }, 'Model "<x>"', false);
  assert.match(svg, /^<svg [^>]*>/);
  assert.is(svg.match(/<circle /g)?.length, 2);
  assert.ok(svg.includes('a &amp; b') && svg.includes('&lt;b&gt;.jsonl, 10 of 20') && svg.includes('chance') && !svg.includes('<x>'));
  for (const [, x] of svg.matchAll(/<circle cx="([\d.]+)"/g)) assert.ok(Number(x) >= 170 && Number(x) <= 560);
  assert.match(evaluationChart({ tasks: [task] }, 'm', true), /^<!doctype html>[\s\S]*<svg [\s\S]*<\/html>\n$/);
  assert.match(evaluationChart({ tasks: [task] }, 'm', true), 'prefers-color-scheme:dark');
  const apart = { ...result('chai', 0.58) };
  apart.figures = [{ ...apart.figures[0]!, ...{ difference: { value: -0.02, standardError: 0.004 } } }];
  assert.match(evaluationChart({ tasks: [{ ...task, results: [result('dense', 0.6), apart] }] }, 'm', false), '>58.0 (-2.0 ± 0.4)</text>');
  assert.match(evaluationChart({ tasks: [{ ...task, task: 'boolq', majority: 0.62 }] }, 'm', false), '>commonest answer</text>');
  const normed = { ...result('dense', 0.25), figures: [{ ...apart.figures[0]!, value: 0.31, name: 'accuracyPerCharacter' as const }] };
  normed.figures.unshift({ ...normed.figures[0]!, name: 'accuracy' as never, value: 0.25 });
  assert.match(evaluationChart({ tasks: [{ ...task, task: 'hellaswag', results: [normed] }] }, 'm', false), '>31.0 (');
  assert.equal(ticksOf([48, 61]).map(Math.round), [45, 50, 55, 60, 65]);
  assert.equal([ticksOf([0, 0])[0], ticksOf([100, 100], 100).at(-1)], [0, 100]);
  assert.ok(ticksOf([3, 3]).length >= 2 && ticksOf([]).length >= 2);
});

test.run();

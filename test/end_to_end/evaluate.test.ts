// Evaluations of the starter model: equal to transformers, the same to the bit however computed, paired differences, refusals, the command.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import zlib from 'node:zlib';
import { ChaiError, type ErrorCode, type Evaluation, evaluate, loadModel, type Model, type TaskName, type TaskResult } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { roomOf } from '../../dist/evaluate/room';
import { Scorer } from '../../dist/evaluate/scorer';
import { slowModel } from '../surface/models';
import { cli } from '../surface/programs';

const root = path.join(__dirname, '..', '..');
const starter = path.join(root, 'models', 'starter');
const fixtures = path.join(root, 'test', 'fixtures', 'evaluate');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-evaluate-'));
process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

interface Expected {
  window?: number;
  stride?: number;
  items: { line?: number; logLikelihoods: number[]; tokens: number[]; greedy?: boolean }[];
  figures: Record<string, number>;
}
const expected = JSON.parse(fs.readFileSync(path.join(fixtures, 'expected.json'), 'utf8')) as Record<TaskName, Expected>;
const names = Object.keys(expected) as TaskName[];
const fixture = (task: TaskName) => path.join(fixtures, task === 'perplexity' ? 'perplexity.txt' : `${task}.jsonl`);

let model: Model;
test.before(async () => {
  model = await loadModel(starter, { cacheType: 'float32', threads: 1 });
});
test.after(() => model.close());

async function refused(work: Promise<unknown>, words: RegExp, code: ErrorCode = 'OPTION_INVALID'): Promise<void> {
  const error = await work.then(
    () => undefined,
    (caught) => caught,
  );
  assert.instance(error, ChaiError);
  assert.is(error.code, code, error.message);
  assert.match(error.message, words);
}

test('log-likelihoods and figures equal those of transformers', async () => {
  assert.is(names.length, 8);
  for (const task of names) {
    const { window, stride, items, figures } = expected[task];
    const { tasks } = await evaluate(model, { tasks: [{ task, file: fixture(task) }], compare: ['dense'], window, stride, details: true });
    const [dense] = tasks[0]?.results ?? [];
    assert.is(dense?.items?.length, items.length, task);
    for (const [i, item] of items.entries()) {
      const mine = dense?.items?.[i];
      assert.equal(mine?.tokens, item.tokens, `${task} ${i}`);
      if (item.greedy !== undefined && task === 'lambada') assert.is(mine?.greedy, item.greedy);
      for (const [k, value] of item.logLikelihoods.entries()) {
        const off = Math.abs((mine?.logLikelihoods[k] ?? Number.NaN) - value);
        assert.ok(off < 1e-3, `${task} item ${i}, continuation ${k}: ${mine?.logLikelihoods[k]}, transformers ${value}`);
      }
    }
    const found = Object.fromEntries(dense?.figures.map(({ name, value }) => [name, value]) ?? []);
    assert.equal(Object.keys(found).sort(), Object.keys(figures).sort());
    for (const [name, value] of Object.entries(figures))
      assert.ok(
        Math.abs((found[name] ?? Number.NaN) / value - 1) < 1e-3 || found[name] === value,
        `${task} ${name}: ${found[name]}, transformers ${value}`,
      );
  }
});

test('sharing a context, and work side by side, change no bit', async () => {
  const words = model.tokenizer.encode('The farmer had a grey horse, and the horse was old. Every day it drew the cart to the mill. ');
  const group = (context: number, tails: number[][]) =>
    tails.map((tail) => ({ ids: Int32Array.from([...words.slice(0, context), ...tail]), from: context }));
  const tails = [[5, 6, 7], [5, 9], [300], [17, 18, 19, 20, 21, 22, 23]];
  // Contexts around the end of the warm-up (5), around what is worth sharing (16), and over a page (64).
  const long = [...words, ...words, ...words];
  const groups = [1, 4, 5, 6, 15, 16, 17, 25].map((context) => group(context, tails));
  groups.push(tails.map((tail) => ({ ids: Int32Array.from([...long.slice(0, 64), ...tail]), from: 64 })));
  groups.push(tails.map((tail) => ({ ids: Int32Array.from([...long.slice(0, 70), ...tail]), from: 40 })));
  for (const attention of ['dense', 'chai', 'chai-static']) {
    const room = await roomOf(model);
    const shared = await Scorer.open(model, attention, room);
    const plain = await Scorer.open(model, attention, room, { share: false });
    const together = await Promise.all(groups.map((one) => shared.score(one)));
    for (const [g, one] of groups.entries())
      for (const [k, { ids, from }] of one.entries()) {
        // The plain way: a session of its own, all at once.
        const session = await model.createSession({ attention });
        const all = await session.score(ids);
        await session.close();
        const sum = all.slice(from).reduce((total, value) => total + value, 0);
        assert.is(together[g]?.[k]?.logLikelihood, sum, `${attention}, group ${g}, continuation ${k}`);
        assert.is((await plain.score([{ ids, from }]))[0]?.logLikelihood, sum);
        const [greedy] = await plain.score([{ ids, from }], true);
        assert.ok(Math.abs((greedy?.logLikelihood ?? 0) - sum) < 1e-4);
      }
    assert.ok(shared.effort.tokens < plain.effort.tokens);
    assert.is(shared.effort.sequences, groups.flat().length);
    await shared.close();
    await plain.close();
  }
  assert.is(model.memory.cacheUsed, 0, 'all sessions were closed');
});

const figure = (result: Evaluation, task: number, attention: string, name: string) =>
  result.tasks[task]?.results.find((one) => one.attention === attention)?.figures.find((one) => one.name === name);

test('kinds of attention side by side: dense has no difference, the others a paired one; bytes are the allocator’s', async () => {
  const tasks = [
    { task: 'blimp' as const, file: fixture('blimp') },
    { task: 'perplexity' as const, file: fixture('perplexity') },
    { task: 'agreement' as const, file: fixture('perplexity') },
  ];
  const result = await evaluate(model, { tasks, compare: ['dense', 'chai', { attention: 'dense', name: 'again' }], window: 64 });
  for (const [i, { results }] of result.tasks.entries()) {
    assert.equal(
      results.map(({ attention }) => attention),
      ['dense', 'chai', 'again'],
    );
    const [dense, chai] = results;
    assert.is(dense?.cacheBytes.keys, dense?.cacheBytes.denseKeys);
    assert.ok((chai?.cacheBytes.keys ?? 0) < (chai?.cacheBytes.denseKeys ?? 0));
    assert.is(chai?.cacheBytes.values, chai?.cacheBytes.denseValues);
    assert.is(
      dense?.figures.some(({ difference }) => difference),
      false,
    );
    if (i === 2) continue;
    assert.equal(figure(result, i, 'again', results[0]?.figures[0]?.name ?? '')?.difference, { value: 0, standardError: 0 });
  }
  const [dense, chai] = ['dense', 'chai'].map((name) => figure(result, 1, name, 'perplexity'));
  assert.is(chai?.difference?.value, (chai?.value ?? 0) - (dense?.value ?? 0));
  assert.ok((chai?.difference?.standardError ?? 1) < (chai?.standardError ?? 0), 'pairing takes out what both have in common');
  assert.is(figure(result, 2, 'again', 'topOneAgreement')?.value, 1);
  assert.ok((figure(result, 2, 'again', 'meanDivergence')?.value ?? 1) < 1e-9);
  assert.ok((figure(result, 2, 'chai', 'meanDivergence')?.value ?? 0) > 1e-4);
  assert.is(result.tasks[0]?.chance, 0.5);
});

test('agreement is what two sets of logits say', async () => {
  const [window] = (
    await evaluate(model, { tasks: [{ task: 'agreement', file: fixture('perplexity') }], compare: ['chai'], window: 32, details: true })
  ).tasks;
  const text = fs.readFileSync(fixture('perplexity'), 'utf8').split('\f');
  const size = model.config.vocabularySize;
  let [same, all] = [0, 0];
  for (const document of text) {
    const ids = model.tokenizer.encode(document);
    for (let start = 0; start < ids.length - 1; start += 31) {
      const part = ids.slice(start, start + 32);
      const rows = [];
      for (const attention of ['dense', 'chai']) {
        const session = await model.createSession({ attention });
        rows.push(await session.evaluate(part, { logits: 'all' }));
        await session.close();
      }
      const [dense, chai] = rows as [Float32Array, Float32Array];
      const top = (row: Float32Array) => row.indexOf(Math.max(...row));
      for (let i = 0; i < part.length; ++i, ++all)
        same += Number(top(dense.subarray(i * size, (i + 1) * size)) === top(chai.subarray(i * size, (i + 1) * size)));
    }
  }
  assert.is(window?.results[0]?.figures[0]?.value, same / all);
  assert.ok(same < all, 'a text on which both always agree would show nothing');
});

test('limits draw by seed; examples stand before items; the same call gives the same answer', async () => {
  const file = path.join(folder, 'many.jsonl.gz');
  const lines = Array.from({ length: 60 }, (_, i) =>
    JSON.stringify({ query: `The number ${i} is`, choices: ['large', 'small'], gold: i % 2 }),
  );
  fs.writeFileSync(file, zlib.gzipSync(`${lines.join('\n')}\n`));
  const run = async (options: object) => (await evaluate(model, { tasks: [{ task: 'choice', file }], details: true, ...options })).tasks[0];
  const [a, again, b, shots, apart] = [
    await run({ limit: 7 }),
    await run({ limit: 7 }),
    await run({ limit: 7, seed: 1 }),
    await run({ limit: 7, shots: 2 }),
    await run({ limit: 7, concurrency: 1 }),
  ];
  const drawn = (task: typeof a) => task?.results[0]?.items?.map(({ line }) => line) ?? [];
  assert.equal([a?.items, a?.available], [7, 60]);
  assert.equal(a?.results[0]?.items, again?.results[0]?.items);
  assert.equal(a?.results[0]?.items, apart?.results[0]?.items);
  assert.not.equal(drawn(a), drawn(b));
  assert.equal(drawn(a), drawn(shots), 'the same items, with more before them');
  assert.not.equal(a?.results[0]?.items?.[0]?.logLikelihoods, shots?.results[0]?.items?.[0]?.logLikelihoods);
  assert.is(a?.majority, Math.max(...[0, 1].map((gold) => drawn(a).filter((line) => (line - 1) % 2 === gold).length)) / 7);
});

test('what cannot be evaluated is refused by name', async () => {
  const write = (name: string, text: string) => {
    fs.writeFileSync(path.join(folder, name), text);
    return path.join(folder, name);
  };
  const good = '{"query":"a","choices":["b","c"],"gold":0}\n';
  const run = (task: TaskName, file: string, options: object = {}) => evaluate(model, { tasks: [{ task, file }], ...options });
  await refused(run('piqa', write('gold.jsonl', `${good}\n{"query":"a","choices":["b","c"],"gold":2}\n`)), /gold\.jsonl:3: gold: 2/);
  await refused(run('piqa', write('json.jsonl', `${good}{"query":`)), /json\.jsonl:2: is not valid JSON/);
  await refused(run('piqa', write('none.jsonl', '\n\n')), /none\.jsonl:1: there is no item/);
  await refused(run('piqa', path.join(folder, 'absent.jsonl')), /there is no .*absent\.jsonl/);
  await refused(run('piqa', write('one.jsonl', good), { shots: 1 }), /more than the 1 items/);
  await refused(run('perplexity', write('word.txt', 'a')), /word\.txt:1: the text has no two tokens/);
  await refused(run('perplexity', fixture('perplexity'), { window: 5000 }), /window 5000 is more than the 256/);
  await refused(run('perplexity', fixture('perplexity'), { window: 20, stride: 21 }), /stride 21/);
  await refused(run('piqa', fixture('piqa'), { compare: ['dense', 'dense'] }), /two columns are called dense/);
  await refused(run('piqa', fixture('piqa'), { compare: [{ attention: 'dense', label: 'x' }] }), /compare/);
  await refused(run('piqa', fixture('piqa'), { compare: ['nothing.json'] }), /there is no nothing\.json/, 'PLAN_INVALID');
  await refused(run('nonsense' as TaskName, fixture('piqa')), /expected one of perplexity/);
  await refused(run('piqa', fixture('piqa'), { limit: 0 }), /option limit/);
  await refused(evaluate(model, { tasks: [] }), /at least one task/);
  await refused(evaluate(model, undefined as never), /tasks/);
  const long = 'word '.repeat(400);
  await refused(
    run('choice', write('long.jsonl', JSON.stringify({ query: 'a', choices: [long, 'b'], gold: 0 }))),
    /no item fits the model's 256/,
  );
  const both = write(
    'fits.jsonl',
    `${good}${JSON.stringify({ query: 'a', choices: [long, 'b'], gold: 0 })}\n${JSON.stringify({ query: long, choices: ['c', 'b'], gold: 0 })}`,
  );
  const [task] = (await run('choice', both)).tasks;
  assert.equal([task?.items, task?.tooLong, task?.truncated], [2, 1, 1]);
});

test('a signal and a throwing onProgress end it; nothing stays open', async () => {
  const abort = new AbortController();
  const tasks = [{ task: 'perplexity' as const, file: fixture('perplexity') }];
  const seen: string[] = [];
  const work = evaluate(model, {
    tasks,
    window: 8,
    stride: 1,
    signal: abort.signal,
    onProgress: ({ phase, done, total }) => {
      seen.push(phase);
      assert.ok(done <= total);
      if (phase === 'scoring') abort.abort();
    },
  });
  await refused(work, /aborted/, 'ABORTED');
  assert.equal(seen.slice(0, 2), ['reading', 'scoring']);
  await refused(evaluate(model, { tasks, signal: AbortSignal.abort() }), /aborted/, 'ABORTED');
  await refused(
    evaluate(model, {
      tasks,
      onProgress: () => {
        throw new Error('enough');
      },
    }),
    /onProgress threw: enough/,
  );
  assert.is(model.memory.cacheUsed, 0);
});

test('finished tasks are told as they end, whatever becomes of the others', async () => {
  const tasks = (['lambada', 'blimp'] as const).map((task) => ({ task, file: fixture(task) }));
  const whole = await evaluate(model, { tasks });
  const abort = new AbortController();
  const told: TaskResult[] = [];
  const onTask = (result: TaskResult) => {
    told.push(result);
    abort.abort();
  };
  await refused(evaluate(model, { tasks, signal: abort.signal, onTask }), /aborted/, 'ABORTED');
  const plain = (results: readonly TaskResult[]) =>
    results.map((task) => ({ ...task, results: task.results.map((column) => ({ ...column, seconds: 0 })) }));
  assert.equal(plain(told), plain(whole.tasks.slice(0, 1)));
  assert.is(whole.tasks[0]?.chance, 0, 'nobody guesses a last word');
});

test('Ctrl-C reports the tasks that are done', async () => {
  const long = path.join(folder, 'long.txt');
  fs.writeFileSync(long, 'so it went on and on, '.repeat(4000));
  const task = ['--task', `blimp=${fixture('blimp')}`, '--task', `perplexity=${long}`];
  let wait = 250;
  for (let ended = ''; !ended; wait *= 2) {
    assert.ok(wait < 300_000, 'the first task never came to an end');
    const { code, out, err } = await cli(
      ['evaluate', slowModel(), ...task, '--window', '64', '--stride', '1', '--json'],
      undefined,
      async (child) => {
        await new Promise((resolve) => setTimeout(resolve, wait));
        child.kill('SIGINT');
      },
    );
    assert.is(code, 130, err);
    if (out === '') continue; // too early
    ended = err;
    const { tasks, missing } = JSON.parse(out);
    assert.equal([tasks.length, tasks[0].task, tasks[0].items, missing], [1, 'blimp', 3, 1]);
    assert.match(err, /broken off: 1 task not done/);
  }
});

test('the command prints a table, JSON and a chart', async () => {
  const [out, chart] = [path.join(folder, 'out.json'), path.join(folder, 'chart.html')];
  const task = ['--task', `piqa=${fixture('piqa')}`, '--task', 'blimp', 'hellaswag', '--data', fixtures];
  const {
    code,
    out: text,
    err,
  } = await cli(['evaluate', starter, ...task, '--compare', 'dense,chai-static', '--out', out, '--chart', chart]);
  assert.is(code, 0, err);
  assert.match(text, /^ +dense +chai-static\n/);
  assert.match(text, /\npiqa: 3, chance 50\.0 %\n {2}accuracy % +\d+\.\d ± \d+\.\d/);
  assert.match(text, /\n {2}K\/V cache of an item +\d+ kB +\d+ kB \(-7\.8 %\)\n/);
  const written = JSON.parse(fs.readFileSync(out, 'utf8'));
  assert.equal(
    written.tasks.map((one: { task: string }) => one.task),
    ['piqa', 'blimp', 'hellaswag'],
  );
  assert.match(fs.readFileSync(chart, 'utf8'), /<svg /);
  const json = await cli(['evaluate', starter, '--task', `lambada=${fixture('lambada')}`, '--json', '--items']);
  assert.is(JSON.parse(json.out).tasks[0].results[0].items.length, 3);
});

test('wrong usage of the command exits with 2', async () => {
  for (const [args, words] of [
    [['--task', 'nothing=x'], /There is no task nothing/],
    [['--task', 'piqa'], /name a file \(piqa=FILE\)/],
    [['--task', 'lambada', '--data', folder], /has no lambada\.jsonl/],
    [['--task', `piqa=${fixture('piqa')}`, '--chart', 'x.png'], /\.svg or \.html/],
    [[], /required option/],
  ] as [string[], RegExp][]) {
    const { code, err } = await cli(['evaluate', starter, ...args]);
    assert.is(code, 2, err);
    assert.match(err, words);
  }
});

test.run();

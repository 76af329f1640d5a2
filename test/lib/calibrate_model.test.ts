// Calibrations of real models: memberships the engine finds too, plans it takes, losses it measures, broken-off work, the command.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {
  type CalibrateOptions,
  type Calibration,
  type CalibrationProgress,
  ChaiError,
  calibrate,
  type ErrorCode,
  loadModel,
  type Model,
  readHeadPlan,
} from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { clusterHeads, representativesOf } from '../../dist/calibrate/clustering';
import type { Session } from '../../lib/session';
import { slowModel } from '../surface/models';
import { cli, root, starter } from '../surface/programs';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-calibrate-'));
process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
const inFolder = (name: string) => path.join(folder, name);

/** English sentences without sense, the same ones always. */
function someText(sentences: number): string {
  const choose = [
    'old',
    'quiet',
    'grey',
    'little',
    'proud',
    'tired',
    'king',
    'fox',
    'river',
    'mother',
    'soldier',
    'garden',
    'house',
    'stone',
  ];
  const verbs = ['saw', 'followed', 'forgot', 'carried', 'found', 'answered', 'watched'];
  let state = 99;
  const pick = (from: string[]) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return from[(state >>> 8) % from.length] as string;
  };
  const sentence = () =>
    `The ${pick(choose)} ${pick(choose)} ${pick(verbs)} the ${pick(choose)}, and then "${pick(verbs)}," said the ${pick(choose)}.`;
  return Array.from({ length: sentences }, sentence).join(' ');
}
const text = inFolder('text.txt');
fs.writeFileSync(text, someText(400));

const options: CalibrateOptions = { text: [text], samples: 24, length: 48, heldOut: 8 };

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

const plan = (clusters: number, more: object) => ({
  format: 'chai-llm/head-plan@1' as const,
  method: 'chai' as const,
  layers: Array.from({ length: 4 }, () => ({ clusters })),
  ...more,
});

test('memberships from inner products are those that sessions find online', async () => {
  for (const clustering of ['kmeans', 'average-linkage-cosine'] as const)
    for (const [start, tokens] of [
      [0, 5],
      [2, 5],
      [0, 16],
    ] as const)
      for (const prompt of [
        'Once upon a time there was a fox who',
        'The king said: "Bring me my horse!" and the soldiers ran away from him',
      ]) {
        const ids = model.tokenizer.encode(`${prompt} ${prompt} ${prompt}`);
        const watching = (await model.createSession({ attention: plan(8, { warmupTokens: start + tokens + 1 }) })) as unknown as Session;
        await watching.evaluate(ids.slice(0, start + tokens), { logits: 'none' });
        const grams = await watching.headGram(start > 0 ? [start, start + tokens] : [tokens]);
        await watching.close();
        const square = 64;
        const gram = (layer: number) =>
          grams
            .slice(-4 * square)
            .subarray(layer * square, (layer + 1) * square)
            .map((value, i) => value - (start > 0 ? (grams[layer * square + i] as number) : 0));
        for (const clusters of [2, 3, 6]) {
          const session = await model.createSession({
            attention: plan(clusters, { warmupTokens: tokens, warmupStart: start, clustering }),
          });
          await session.evaluate(ids.slice(0, start + tokens), { logits: 'none' });
          for (const [layer, { scoreOfQuery, queryOfScore }] of (session.headMaps ?? []).entries()) {
            const clusterOf = clusterHeads(gram(layer), 8, clusters, clustering);
            assert.equal(clusterOf, scoreOfQuery, `${clustering} S ${start} W ${tokens} k ${clusters} layer ${layer}`);
            assert.equal(representativesOf(gram(layer), clusterOf, clusters), queryOfScore);
          }
          assert.is(session.headMaps?.length, 4);
          await session.close();
        }
      }
});

test('inner products are refused where there are none, and nothing else is disturbed', async () => {
  const session = (await model.createSession({ attention: plan(3, { warmupTokens: 8 }) })) as unknown as Session;
  await refused(session.headGram([1]), /rows must ascend from 1 to the 0/);
  await session.evaluate([1, 2, 3]);
  await refused(session.headGram([4]), /to the 3 feature rows/);
  const working = session.headGram([1, 3]);
  await refused(session.evaluate([4]), /working on another request/, 'SESSION_BUSY');
  assert.is((await working).length, 2 * 4 * 64);
  await session.evaluate([4, 5, 6, 7, 8]);
  await refused(session.headGram([1]), /not warming up/);
  await session.close();
  await refused(session.headGram([1]), /closed/, 'CLOSED');
});

let first: Calibration;
test('a calibration gives a plan that sessions take, and says what it costs', async () => {
  const phases: string[] = [];
  let last: CalibrationProgress | undefined;
  first = await calibrate(model, {
    ...options,
    onProgress: (progress) => {
      if (phases.at(-1) !== progress.phase) phases.push(progress.phase);
      assert.ok(progress.done <= progress.total && progress.done >= (last?.done ?? 0));
      last = progress;
    },
  });
  assert.equal(phases, ['reading', 'attention', 'membership', 'measuring']);
  assert.is(last?.done, last?.total);
  assert.equal(first.options, { samples: 24, length: 48, warmupTokens: 5, warmupStart: 0, clustering: 'kmeans', heldOut: 8, seed: 0 });
  for (const [i, layer] of first.layers.entries()) {
    assert.is(layer.errors.length, 8);
    layer.errors.forEach((error, k) => {
      assert.ok(error >= -1e-12 && error <= (layer.errors[Math.max(0, k - 1)] as number) * 1.05, `layer ${i}, k ${k + 1}`);
    });
    assert.is(layer.errors[7], 0);
    assert.is(layer.clusters, layer.elbow);
    assert.is(layer.stability.at(-1), 1);
    assert.ok(Math.abs(layer.sizes.reduce((sum, size) => sum + size, 0) - 8) < 1e-9);
    for (let head = 0; head < 8; ++head) assert.ok(Math.abs((layer.correlation[head * 9] as number) - 1) < 1e-9);
  }
  assert.equal(
    first.losses.map(({ name }) => name),
    ['dense', 'chai', 'chai-static'],
  );
  for (const [i, attention] of (['dense', first.plan, { ...first.plan, method: 'chai-static' as const }] as const).entries()) {
    const session = await model.createSession({ attention });
    await session.evaluate(model.tokenizer.encode(someText(3)), { logits: 'none' });
    const { keys, values, denseKeys, denseValues } = session.cacheBytes;
    assert.ok(Math.abs(1 - (keys + values) / (denseKeys + denseValues) - (first.losses[i]?.keyValueSaving as number)) < 1e-12);
    await session.close();
  }
});

test('the same seed gives the same calibration however many samples are at work', async () => {
  assert.equal(await calibrate(model, { ...options, concurrency: 1 }), first);
  const other = await calibrate(model, { ...options, seed: 1 });
  assert.not.equal(other.layers, first.layers);
});

test('losses are those of scoring the held-out windows', async () => {
  const held = inFolder('held.jsonl');
  // This tokenizer puts nothing before a text, so a window has the last token of the one before it to tell its own first from.
  const ids = model.tokenizer.encode(someText(20)).slice(0, 95);
  const windows = [ids.slice(0, 48), ids.slice(47)];
  fs.writeFileSync(held, `${JSON.stringify({ text: model.tokenizer.decode(ids) })}\n`);
  const { losses, plan: found } = await calibrate(model, { ...options, heldOutText: [held] });
  for (const [name, attention] of [
    ['dense', 'dense'],
    ['chai', found],
  ] as const) {
    let [nats, tokens] = [0, 0];
    for (const window of windows) {
      const session = await model.createSession({ attention });
      const scores = await session.score(window);
      nats -= scores.slice(1).reduce((sum, score) => sum + score, 0);
      tokens += scores.length - 1;
      await session.close();
    }
    const loss = losses.find((one) => one.name === name);
    assert.ok(
      Math.abs((loss?.perplexity ?? 0) / Math.exp(nats / tokens) - 1) < 1e-6,
      `${name}: ${loss?.perplexity}, ${Math.exp(nats / tokens)}`,
    );
  }
});

test('work that was broken off anywhere goes on to the same result', async () => {
  const stateFile = inFolder('work.state');
  const budget = { perplexityIncrease: 0.05 };
  const wishes = { ...options, samples: 12, stateFile, budget, warmupStart: 1, clustering: 'average-linkage-cosine' } as const;
  const begun = model.stats.rows;
  const whole = await calibrate(model, wishes);
  const wholeRows = model.stats.rows - begun;
  assert.is(whole.losses.length, 4);
  assert.ok((whole.search?.increase ?? 1) <= 0.05);
  assert.not.ok(fs.existsSync(stateFile), 'removed when done');
  for (const phase of ['attention', 'search', 'membership', 'measuring'] as const) {
    const abort = new AbortController();
    let count = 0;
    const onProgress = (progress: CalibrationProgress) => {
      if (progress.phase === phase && ++count === 3) abort.abort();
    };
    await refused(calibrate(model, { ...wishes, signal: abort.signal, onProgress }), /aborted/, 'ABORTED');
    const before = model.stats.rows;
    assert.equal(await calibrate(model, { ...wishes, resume: true, signal: undefined }), whole, phase);
    const rows = model.stats.rows - before;
    if (phase === 'measuring')
      assert.ok(rows < wholeRows / 2, `${rows} of ${wholeRows} rows: samples and the search are not computed again`);
    assert.not.ok(fs.existsSync(stateFile));
  }
  fs.writeFileSync(stateFile, 'x');
  await refused(calibrate(model, { ...wishes, resume: true }), /is no state of a calibration/);
});

test('a state of other work is refused, a budget may change with it', async () => {
  const stateFile = inFolder('other.state');
  const abort = new AbortController();
  const onProgress = ({ phase }: CalibrationProgress) => {
    if (phase === 'membership') abort.abort();
  };
  await refused(calibrate(model, { ...options, stateFile, signal: abort.signal, onProgress }), /aborted/, 'ABORTED');
  await refused(calibrate(model, { ...options, stateFile, resume: true, seed: 3 }), /another model, another text or other options/);
  const state = JSON.parse(fs.readFileSync(stateFile, 'utf8'));
  const damaged = { ...state, parts: { ...state.parts, sweep: { ...state.parts.sweep, errors: 'AAAA' } } };
  fs.writeFileSync(stateFile, JSON.stringify(damaged));
  await refused(calibrate(model, { ...options, stateFile, resume: true }), /is damaged/);
  fs.writeFileSync(stateFile, JSON.stringify({ ...state, parts: { ...state.parts, probe: 1 } }));
  await refused(calibrate(model, { ...options, stateFile, resume: true }), /other weights/);
  fs.writeFileSync(stateFile, JSON.stringify(state));
  assert.equal(await calibrate(model, { ...options, stateFile, resume: true }), first);
});

test('a state that is kept serves other budgets and methods', async () => {
  const stateFile = inFolder('kept.state');
  const rows = async (wishes: Partial<CalibrateOptions>) => {
    const before = model.stats.rows;
    const found = await calibrate(model, { ...options, ...wishes });
    return { found, rows: model.stats.rows - before };
  };
  const kept = { stateFile, resume: true, keepState: true };
  const [small, large] = [{ budget: { keyValueSaving: 0.05 } }, { budget: { keyValueSaving: 0.12 }, method: 'chai-static' }] as const;
  const alone = { small: await rows(small), large: await rows(large) };
  assert.equal((await rows(kept)).found, first, 'the elbows');
  assert.equal((await rows({ ...kept, ...small })).found, alone.small.found);
  const second = await rows({ ...kept, ...large });
  assert.equal(second.found, alone.large.found);
  assert.ok(second.rows < alone.large.rows - 48 * 10, `${second.rows}, alone ${alone.large.rows}: samples pass the model once`);
  const again = await rows({ ...kept, ...large });
  assert.equal(again.found, alone.large.found);
  assert.ok(again.rows < alone.large.rows / 10, `${again.rows} of ${alone.large.rows}: nothing is measured twice`);
  assert.ok(fs.existsSync(stateFile));
});

test('grouped-query models: only key heads that no cluster needs are saved', async () => {
  const grouped = await loadModel(path.join(root, 'test', 'fixtures', 'llama-gqa-tied-bf16'), { threads: 1 });
  try {
    const { keyValueHeads, layers } = grouped.config;
    const found = await calibrate(grouped, { ...options, samples: 4, budget: { keyValueSaving: 1 / (2 * keyValueHeads * layers) } });
    assert.ok(found.losses.some(({ name, keyValueSaving }) => name === 'chai' && keyValueSaving > 0));
    for (const { clusters } of found.layers) assert.ok(clusters === grouped.config.heads || clusters < keyValueHeads);
    const session = await grouped.createSession({ attention: found.plan });
    await session.close();
  } finally {
    await grouped.close();
  }
});

test('whatever is wrong is told before or while working, and nothing is left open', async () => {
  const used = model.memory.cacheUsed;
  await refused(calibrate(model, { ...options, text: [inFolder('none.txt')] }), /none\.txt/);
  await refused(calibrate(model, { ...options, length: 257 }), /257 tokens are more than the 256/);
  await refused(calibrate(model, { text: 'a.txt' } as never), /option text/);
  await refused(calibrate(model, undefined as never), /text/);
  const rowsBefore = model.stats.rows;
  await refused(calibrate(model, { ...options, budget: { keyValueSaving: 0.45 } }), /cannot be met/);
  assert.is(model.stats.rows, rowsBefore, 'refused before any work');
  const thrown = () => {
    throw new Error('mine');
  };
  await refused(calibrate(model, { ...options, onProgress: thrown }), /onProgress threw: mine/);
  await refused(calibrate(model, { ...options, signal: AbortSignal.abort() }), /aborted/, 'ABORTED');
  await refused(calibrate(model, { ...options, stateFile: inFolder('no/such/file') }), /cannot write/);
  assert.is(model.memory.cacheUsed, used);
  const shortLived = await loadModel(starter, { threads: 1 });
  const working = calibrate(shortLived, { ...options, onProgress: ({ phase }) => void (phase === 'attention' && shortLived.close()) });
  await refused(working, /closed/, 'CLOSED');
});

test('counts that are given are those of the plan, beside the elbows', async () => {
  const clusters = [2, 8, 5, 1];
  const given = await calibrate(model, { ...options, clusters });
  assert.equal(
    given.plan.layers.map((layer) => [layer.clusters, Math.max(...(layer.clusterOf ?? [])) + 1, layer.representatives?.length]),
    clusters.map((count) => [count, count, count]),
  );
  assert.equal(
    given.layers.map(({ elbow }) => elbow),
    first.layers.map(({ elbow }) => elbow),
  );
  assert.equal(given.losses.map(({ name, keyValueSaving }) => [name, keyValueSaving]).slice(0, 2), [
    ['dense', 0],
    ['chai', 16 / 64],
  ]);
  assert.equal({ ...given.losses.at(-1), name: 'chai' }, first.losses[1]); // the elbows, as where nothing is given
});

const arguments_ = ['calibrate', starter, '--text', text, '--samples', '12', '--length', '48', '--held-out', '8', '--threads', '1'];

test('the command writes the plan and the report, and says what they hold', async () => {
  const out = inFolder('head-plan.json');
  const { code, out: printed, err } = await cli([...arguments_, '--out', out, '--budget', 'kv:10%']);
  assert.is(code, 0, err);
  assert.is(err, '');
  const made = await readHeadPlan(out);
  assert.match(printed, new RegExp(`^clusters of 8 heads, layer by layer: ${made.layers.map(({ clusters }) => clusters).join(' ')}\n`));
  assert.match(printed, /dense +0\.0 %/);
  assert.match(printed, /budget \(saving 10\.0 %\): 1\d\.\d % saved at/);
  assert.match(fs.readFileSync(inFolder('head-plan.html'), 'utf8'), /^<!doctype html>/);
  assert.equal(
    fs
      .readdirSync(folder)
      .filter((name) => name.startsWith('head-plan'))
      .sort(),
    ['head-plan.html', 'head-plan.json'],
  );
  const used = await cli(['generate', starter, 'Once', '--attention', out, '--max-tokens', '9', '--stats', '--threads', '1']);
  assert.is(used.code, 0, used.err);
  assert.match(used.err, /K\/V cache .*-1\d\.\d %/);
});

test('a budget that other windows do not keep is said', async () => {
  const flags = ['--method', 'chai', '--budget', 'loss:1%', '--no-report', '--out', inFolder('loss.json')];
  const { code, out: printed, err } = await cli([...arguments_, ...flags]);
  assert.is(code, 0, err);
  const [, increase] = /^chai .* ([+-]\d+\.\d+) % ±/m.exec(printed) ?? [];
  assert.is(/these windows cost more than that/.test(printed), Number(increase) > 1, printed);
});

test('commands that name one state share what they computed', async () => {
  const state = inFolder('shared.state');
  for (const share of [5, 10]) {
    const out = inFolder(`kv-${share}.json`);
    const { code, err } = await cli([...arguments_, '--out', out, '--no-report', '--budget', `kv:${share}%`, '--state', state]);
    assert.is(code, 0, err);
    const alone = inFolder(`kv-${share}-alone.json`);
    assert.is((await cli([...arguments_, '--out', alone, '--no-report', '--budget', `kv:${share}%`])).code, 0);
    assert.equal(fs.readFileSync(out), fs.readFileSync(alone));
    assert.ok(fs.existsSync(state));
    assert.not.ok(fs.existsSync(`${out}.state`));
  }
  const other = await cli([...arguments_, '--out', inFolder('kv.json'), '--state', state, '--seed', '9', '--budget', 'kv:5%']);
  assert.is(other.code, 2);
  assert.match(other.err, /shared\.state is of another model, another text or other options/);
  const twice = await cli([...arguments_, '--out', inFolder('kv.json'), '--state', inFolder('kv.json')]);
  assert.is(twice.code, 2);
  assert.match(twice.err, /two results have that name/);
});

test('the command prints JSON, and refuses what it cannot do', async () => {
  const out = inFolder('other.json');
  const { code, out: printed, err } = await cli([...arguments_, '--out', out, '--no-report', '--json', '--clusters', '2x3,8,1']);
  assert.is(code, 0, err);
  const result = JSON.parse(printed);
  assert.equal(result.options.clusters, [3, 3, 8, 1]);
  assert.equal(result.plan, JSON.parse(fs.readFileSync(out, 'utf8')));
  assert.is(result.layers.length, 4);
  assert.not.ok(fs.existsSync(inFolder('other.html')));
  for (const [flags, words] of [
    [['--budget', '15'], /kv:15%/],
    [['--clusters', '3,x'], /18x32,14x4/],
    [['--clusters', '2x3,8'], /3 counts, but the model has 4 layers/],
    [['--clusters', '9'], /a layer has 8 heads/],
    [['--budget', 'kv:60%'], /cannot be met/],
    [['--text', inFolder('none.txt')], /none\.txt/],
    [['--out', inFolder('no/plan.json')], /cannot write/],
    [['--out', folder], /is a directory/],
    [['--length', '400'], /400 tokens are more than/],
  ] as const) {
    const wrong = await cli([...arguments_, '--out', out, ...flags]);
    assert.is(wrong.code, 2, `${flags}: ${wrong.err}`);
    assert.match(wrong.err, words);
  }
  const help = await cli(['calibrate', '--help']);
  assert.is(help.code, 0);
  assert.match(help.out, /elbow/);
});

test('Ctrl-C leaves a state to go on from', async () => {
  const out = inFolder('slow.json');
  const state = `${out}.state`;
  const broken = await cli(
    ['calibrate', slowModel(), '--text', text, '--length', '32', '--out', out, '--threads', '1'],
    undefined,
    async (child) => {
      while (!fs.existsSync(state) && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 20));
      child.kill('SIGINT');
    },
  );
  assert.is(broken.code, 130, broken.err);
  const anew = await cli(['calibrate', slowModel(), '--text', text, '--length', '32', '--out', out]);
  assert.is(anew.code, 2);
  assert.match(anew.err, /slow\.json\.state is there, of a run that was broken off: go on from it with --resume, or remove it/);
  assert.match(broken.err, /--resume/);
  assert.ok(JSON.parse(fs.readFileSync(state, 'utf8')).parts.sweep.samples > 0);
  assert.not.ok(fs.existsSync(out));
});

test.run();

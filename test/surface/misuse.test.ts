// Misuse of the public API: broken model directories, wrong options, calls out of order. Each gets a ChaiError with its code and leaves
// the library usable.
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { ChaiError, calibrate, evaluate, inspectModel, loadModel, type Model } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { modelPath } from '../end_to_end/fixtures';

type Json = Record<string, unknown>;

async function refused(code: string, work: () => Promise<unknown> | unknown, words = /./): Promise<void> {
  try {
    await work();
  } catch (error) {
    assert.instance(error, ChaiError, String((error as Error).stack));
    assert.is((error as ChaiError).code, code, String(error));
    assert.match((error as Error).message, words);
    assert.match((error as Error).stack ?? '', /misuse\.test/, 'the stack names the caller');
    return;
  }
  assert.unreachable(`expected ${code}`);
}

/** A copy of a fixture with some files changed: a Buffer or string replaces, null deletes. */
async function broken(model: string, files: Record<string, Buffer | string | null>): Promise<string> {
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'chai-llm-'));
  await fs.cp(modelPath(model), folder, { recursive: true });
  for (const [name, content] of Object.entries(files))
    if (content === null) await fs.rm(path.join(folder, name));
    else await fs.writeFile(path.join(folder, name), content);
  return folder;
}

const read = (model: string, file: string) => fs.readFile(path.join(modelPath(model), file));

/** A safetensors file with its header changed. */
async function withHeader(model: string, change: (header: Record<string, Json>) => void): Promise<Buffer> {
  const bytes = await read(model, 'model.safetensors');
  const length = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
  change(header);
  const text = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([prefix, text, bytes.subarray(8 + length)]);
}

const weights = 'model.safetensors';
const first = 'model.layers.0.self_attn.q_proj.weight';
const hostile: [string, string, () => Promise<string>][] = [
  ['MODEL_NOT_FOUND', 'no config', () => broken('llama-mha', { 'config.json': null })],
  ['MODEL_NOT_FOUND', 'no tokenizer', () => broken('llama-mha', { 'tokenizer.json': null })],
  ['MODEL_NOT_FOUND', 'no weights', () => broken('llama-mha', { [weights]: null })],
  ['MODEL_NOT_FOUND', 'a shard is missing', () => broken('llama-sharded-f16', { 'model-00002-of-00003.safetensors': null })],
  ['MODEL_INVALID', 'bad JSON', () => broken('llama-mha', { 'config.json': '{"model_type": ' })],
  ['MODEL_INVALID', 'JSON that is no object', () => broken('llama-mha', { 'config.json': '[]' })],
  ['MODEL_INVALID', 'a tokenizer of rubbish', () => broken('llama-mha', { 'tokenizer.json': '{"model": {"type": "BPE"}}' })],
  [
    'MODEL_INVALID',
    'an index that leaves the directory',
    () => broken('llama-sharded-f16', { 'model.safetensors.index.json': '{"weight_map": {"a": "../x.safetensors"}}' }),
  ],
  ['MODEL_INVALID', 'an index without a map', () => broken('llama-sharded-f16', { 'model.safetensors.index.json': '{}' })],
  ['MODEL_INVALID', 'an empty weight file', () => broken('llama-mha', { [weights]: '' })],
  ['MODEL_INVALID', 'a weight file of rubbish', () => broken('llama-mha', { [weights]: Buffer.alloc(500, 255) })],
  [
    'MODEL_INVALID',
    'a truncated weight file',
    async () => broken('llama-mha', { [weights]: (await read('llama-mha', weights)).subarray(0, -100) }),
  ],
  [
    'MODEL_INVALID',
    'overlapping tensors',
    async () =>
      broken('llama-mha', {
        [weights]: await withHeader('llama-mha', (h) =>
          Object.assign(h[first]!, { data_offsets: h['model.layers.1.self_attn.q_proj.weight']!.data_offsets }),
        ),
      }),
  ],
  [
    'MODEL_INVALID',
    'a shape of 2^63',
    async () =>
      broken('llama-mha', { [weights]: await withHeader('llama-mha', (h) => Object.assign(h[first]!, { shape: [2 ** 63, 48] })) }),
  ],
  [
    'MODEL_INVALID',
    'a missing tensor',
    async () => broken('llama-mha', { [weights]: await withHeader('llama-mha', (h) => delete h[first]) }),
  ],
  [
    'UNSUPPORTED_MODEL',
    'a dtype we do not compute with',
    async () => broken('llama-mha', { [weights]: await withHeader('llama-mha', (h) => Object.assign(h[first]!, { dtype: 'I32' })) }),
  ],
  [
    'MODEL_INVALID',
    'a tokenizer larger than the embedding',
    async () => broken('llama-mha', { 'tokenizer.json': await read('starter', 'tokenizer.json') }),
  ],
  [
    'PLAN_INVALID',
    'a head plan of another model',
    async () => broken('llama-mha', { 'head-plan.json': await read('starter', 'head-plan.json') }),
  ],
];

for (const [code, what, make] of hostile)
  test(`loading with ${what}: ${code}`, async () => {
    const folder = await make();
    await refused(code, () => loadModel(folder));
    await fs.rm(folder, { recursive: true });
  });

test('paths that are no model directory', async () => {
  await refused('MODEL_NOT_FOUND', () => loadModel('/nowhere'));
  await refused('MODEL_NOT_FOUND', () => loadModel(__filename), /directory/);
  await refused('OPTION_INVALID', () => loadModel(undefined as never));
  await refused('OPTION_INVALID', () => loadModel(7 as never));
  const error = await inspectModel('/nowhere').catch((caught) => caught);
  assert.is(error.code, 'MODEL_NOT_FOUND');
});

test('load options out of range name the option', async () => {
  const path = modelPath('llama-mha');
  const cases: [string, Json, RegExp][] = [
    ['OPTION_INVALID', { contextLength: 0 }, /contextLength/],
    ['OPTION_INVALID', { contextLength: 100000 }, /contextLength/],
    ['OPTION_INVALID', { contextLength: 'all' }, /contextLength/],
    ['OPTION_INVALID', { cacheType: 'int8' }, /cacheType/],
    ['OPTION_INVALID', { maxBatch: 1.5 }, /maxBatch/],
    ['OPTION_INVALID', { threads: -1 }, /threads/],
    ['OPTION_INVALID', { device: 'tpu' }, /device/],
    ['OPTION_INVALID', { signal: 'now' }, /signal/],
    ['OPTION_INVALID', { onProgress: 3 }, /onProgress/],
    ['OPTION_INVALID', { contextLenght: 10 }, /contextLenght/],
    ['OUT_OF_MEMORY', { cacheTokens: 2 ** 39 }, /cacheTokens/],
    ['DEVICE_UNAVAILABLE', { device: 'cuda' }, /cuda/],
    ['DEVICE_UNAVAILABLE', { device: 'cuda:7' }, /cuda/],
    ['PLAN_INVALID', { attention: 'chai' }, /calibrate/],
    ['PLAN_INVALID', { attention: 'chia' }, /none of 'auto', 'dense', 'chai' and 'chai-static'/],
    ['PLAN_INVALID', { attention: './no-such-plan.json' }, /^there is no .*calibrate/],
    ['PLAN_INVALID', { attention: {} }, /format/],
    ['ABORTED', { signal: AbortSignal.abort() }, /aborted/],
  ];
  for (const [code, options, words] of cases) await refused(code, () => loadModel(path, options as never), words);
});

test('aborting while loading ends it with ABORTED', async () => {
  const stop = new AbortController();
  await refused('ABORTED', () => loadModel(modelPath('starter'), { signal: stop.signal, onProgress: () => stop.abort() }));
});

async function withModel(work: (model: Model) => Promise<void>): Promise<void> {
  const model = await loadModel(modelPath('llama-mha'));
  await work(model);
  await model.close();
}

test('generate options out of range name the option', () =>
  withModel(async (model) => {
    const cases: [Json, RegExp][] = [
      [{ maxTokens: -1 }, /maxTokens/],
      [{ temperature: Number.NaN }, /temperature/],
      [{ temperature: -1 }, /temperature/],
      [{ topP: 2 }, /topP/],
      [{ topK: 1.5 }, /topK/],
      [{ minP: 'x' }, /minP/],
      [{ repetitionPenalty: 0 }, /repetitionPenalty/],
      [{ seed: -3 }, /seed/],
      [{ stop: [1] }, /stop/],
      [{ stop: '' }, /stop/],
      [{ max_tokens: 4 }, /max_tokens/],
    ];
    for (const [options, words] of cases) {
      await refused('OPTION_INVALID', () => model.complete('x', options), words);
      await refused('OPTION_INVALID', () => model.generate('x', options), words);
    }
    for (const prompt of [undefined, 7, {}, [1.5], [-1], ['a'], [320], [2 ** 40], { messages: 'hi' }])
      await refused('OPTION_INVALID', () => model.complete(prompt as never, { maxTokens: 1 }));
    await refused('OPTION_INVALID', () => model.complete([], { maxTokens: 1 }));
    await refused('OPTION_INVALID', () => model.complete({ messages: [{ role: 'user', content: 'x' }] }), /chat template/);
    await refused('OPTION_INVALID', () => model.createSession({ attn: 'dense' } as never), /attn/);
    assert.is((await model.complete('still works', { maxTokens: 2, ignoreEos: true })).usage.completionTokens, 2);
  }));

test('values that no message can show, objects that throw when they are read, signals that are none', () =>
  withModel(async (model) => {
    const mine = () => {
      throw new Error('mine');
    };
    const throwing = new Proxy({}, { get: mine, has: mine, ownKeys: mine });
    const half = { aborted: false, addEventListener() {} };
    const session = await model.createSession();
    for (const odd of [Object.create(null), { toString: mine }, throwing, Symbol('x'), 1n]) {
      await refused('OPTION_INVALID', () => model.complete('x', { maxTokens: odd } as never));
      await refused('OPTION_INVALID', () => session.evaluate([odd] as never));
      await refused('OPTION_INVALID', () => session.truncate(odd as never));
      await refused('OPTION_INVALID', () => loadModel(modelPath('llama-mha'), { mmap: odd } as never));
      await refused('OPTION_INVALID', () => evaluate(odd as never, {} as never));
      await refused('OPTION_INVALID', () => calibrate(odd as never, {} as never));
    }
    for (const call of [
      () => model.generate('x', throwing),
      () => model.createSession(throwing),
      () => model.createSession({ attention: throwing } as never),
      () => session.score([1], throwing as never),
      () => model.tokenizer.encode('x', throwing),
      () => model.tokenizer.decode(throwing as never),
      () => loadModel(modelPath('llama-mha'), throwing),
      () => evaluate(model, throwing as never),
      () => calibrate(model, throwing as never),
      () => session.evaluate([1], { signal: half } as never),
      () => model.complete('x', { signal: half } as never),
    ])
      await refused('OPTION_INVALID', call);
    await session.evaluate([1]);
  }));

test('session calls with wrong arguments', () =>
  withModel(async (model) => {
    const session = await model.createSession();
    await refused('OPTION_INVALID', () => session.evaluate('text' as never));
    await refused('OPTION_INVALID', () => session.evaluate([]));
    await refused('OPTION_INVALID', () => session.evaluate([0.5]));
    await refused('OPTION_INVALID', () => session.evaluate([1], { logits: 'some' } as never), /logits/);
    await refused('OPTION_INVALID', () => session.score([99999]));
    await refused('CONTEXT_OVERFLOW', () => session.evaluate(new Array(257).fill(1)));
    for (const length of [-1, 1.5, 1, Number.NaN, '0']) await refused('OPTION_INVALID', () => session.truncate(length as never));
    assert.equal(session.tokens, []);
    await refused('OPTION_INVALID', () => model.tokenizer.encode(7 as never));
    await refused('OPTION_INVALID', () => model.tokenizer.decode([-1]));
    await refused('OPTION_INVALID', () => model.tokenizer.decode('abc' as never));
    await refused('OPTION_INVALID', () => model.tokenizer.applyChatTemplate([{ role: 'user', content: 'x' }]));
  }));

test('the offline phase names what is missing, unknown or out of range, and what was given', () =>
  withModel(async (model) => {
    const text = [__filename];
    const calls: [() => Promise<unknown>, RegExp][] = [
      [() => calibrate(undefined as never, { text }), /^calibrate: the first argument must be a loaded model/],
      [() => evaluate(Promise.resolve(model) as never, { tasks: [] }), /^evaluate: the first argument must be a loaded model/],
      [() => calibrate(model, undefined as never), /^calibrate: option text is missing$/],
      [() => calibrate(model, { text, sample: 3 } as never), /there is no option sample; the options are text, samples, /],
      [
        () => calibrate(model, { text, warmupTokens: 300 }),
        /option warmupTokens: expected a whole number from 1 to 255, but 300 was given/,
      ],
      [() => evaluate(model, { tasks: [{ task: 'piqa' }] } as never), /^evaluate: option tasks.0.file is missing$/],
      [() => evaluate(model, { tasks: [{ task: 'piqa', file: 'x', limit: 1 }] } as never), /^evaluate: there is no option tasks.0.limit$/],
      [() => model.complete([{ role: 'user', content: 'x' }] as never), /a conversation is given as \{ messages: \[...\] \}/],
    ];
    for (const [call, words] of calls) await refused('OPTION_INVALID', call, words);
  }));

test('a busy session refuses, whatever is asked of it', () =>
  withModel(async (model) => {
    const session = await model.createSession();
    const generation = session.generate('busy', { maxTokens: 200, ignoreEos: true });
    await generation.next();
    await refused('SESSION_BUSY', () => session.evaluate([1]));
    await refused('SESSION_BUSY', () => session.score([1]));
    await refused('SESSION_BUSY', () => session.complete('x'));
    await refused('SESSION_BUSY', () => session.truncate(0));
    await refused('SESSION_BUSY', () => session.fork());
    await generation.return();
    await session.evaluate([1]);
  }));

test('closed means CLOSED, and closing twice is fine', async () => {
  const model = await loadModel(modelPath('llama-mha'));
  const session = await model.createSession();
  const other = await model.createSession();
  await session.close();
  await session.close();
  for (const work of [
    () => session.evaluate([1]),
    () => session.complete('x'),
    () => session.truncate(0),
    () => session.fork(),
    () => session.tokens,
    () => session.cacheBytes,
    () => session.headMaps,
  ])
    await refused('CLOSED', work);
  const running = other.generate('x', { maxTokens: 250, ignoreEos: true });
  await running.next();
  await Promise.all([model.close(), model.close()]);
  await refused('CLOSED', async () => {
    for await (const _ of running);
  });
  for (const work of [
    () => other.evaluate([1]),
    () => model.generate('x'),
    () => model.complete('x'),
    () => model.createSession(),
    () => other.tokens,
  ])
    await refused('CLOSED', work);
  assert.is(typeof model.tokenizer.encode('x').length, 'number');
});

test.run();

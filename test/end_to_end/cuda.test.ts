// The CUDA backend as Node users reach it, on a simulated GPU: an addon whose kernels run on the host (CHAI_SIMT_ADDON), under a copy of dist/.
// In: fixture models. Out: the reference's logits, the CPU's texts and memberships, errors and memory as the API promises them.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import type * as Library from 'chai-llm';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { NativeBinding } from '../../lib/binding';
import { modelPath, readReference, relativeError, root } from './fixtures';

const folder = path.join(root, '.cmake-tests', 'simt');
fs.rmSync(path.join(folder, 'dist'), { recursive: true, force: true });
fs.cpSync(path.join(root, 'dist'), path.join(folder, 'dist'), { recursive: true });
fs.copyFileSync(path.join(root, 'package.json'), path.join(folder, 'package.json'));
const { devices, loadModel } = require(path.join(folder, 'dist')) as typeof Library;

const name = 'llama-mha';
const plan: Library.HeadPlan = {
  format: 'chai-llm/head-plan@1',
  method: 'chai',
  layers: [{ clusters: 2 }, { clusters: 3 }, { clusters: 4 }],
};
const load = (device: 'cpu' | 'cuda', options: Library.LoadOptions = {}) =>
  loadModel(modelPath(name), { device, cacheType: 'float16', cacheTokens: 1024, ...options });
const refuses = async (call: Promise<unknown>, code: string, said: RegExp) => {
  const error = await call.then(
    () => new Error('nothing was refused'),
    (thrown: Error & { code?: string }) => thrown,
  );
  assert.is((error as { code?: string }).code, code);
  assert.match(error.message, said);
};

const test = suite<{ cpu: Library.Model; cuda: Library.Model }>('cuda');
test.before(async (context) => {
  context.cpu = await load('cpu');
  context.cuda = await load('cuda');
});
test.after(async ({ cpu, cuda }) => {
  await cuda.close();
  await cpu.close();
});

test('the GPU is listed, and taken by default', async ({ cuda }) => {
  const gpu = devices().find(({ id }) => id === 'cuda:0');
  assert.ok(gpu?.usable, JSON.stringify(gpu));
  assert.is(cuda.device, 'cuda:0');
  const byDefault = await loadModel(modelPath(name), { cacheTokens: 1024 });
  assert.is(byDefault.device, 'cuda:0');
  await byDefault.close();
});

test('a GPU that a load cannot mean is not asked', async () => {
  const { native } = require(path.join(folder, 'dist', 'binding')) as { native: NativeBinding };
  for (const [wish, ids] of [
    ['cpu', ['cpu']],
    ['auto', ['cpu', 'cuda:0']],
    ['cuda', ['cpu', 'cuda:0']],
    ['cuda:1', ['cpu']],
  ] as const)
    assert.equal(
      (await native.findDevices(wish)).map(({ id }) => id),
      ids,
      wish,
    );
});

test('logits are those of the reference', async ({ cuda }) => {
  const { prompt, vocabulary, logits } = readReference(name);
  const count = 40;
  const session = await cuda.createSession();
  const got = await session.evaluate(prompt.slice(0, count), { logits: 'all' });
  const error = relativeError(got, logits.subarray(0, count * vocabulary));
  assert.ok(error <= 4e-3, `relative error ${error}`);
  await session.close();
});

test('clustered: memberships, K/V bytes and logits are those of the CPU', async ({ cpu, cuda }) => {
  const { prompt } = readReference(name);
  const [a, b] = await Promise.all([cpu, cuda].map((model) => model.createSession({ attention: plan })));
  assert.ok(a && b);
  const expected = await a.evaluate(prompt.slice(0, 24), { logits: 'all' });
  const got = await b.evaluate(prompt.slice(0, 24), { logits: 'all' });
  assert.equal(b.headMaps, a.headMaps);
  assert.equal(b.cacheBytes, a.cacheBytes);
  assert.ok(b.cacheBytes.keys < b.cacheBytes.denseKeys);
  const error = relativeError(got, expected);
  assert.ok(error <= 4e-3, `relative error ${error}`);
  await a.close();
  await b.close();
});

test('greedy ids are those of transformers as long as they are clear', async ({ cuda }) => {
  const { prompt, greedy, margins } = readReference(name);
  const clear = margins.findIndex((margin) => margin < 0.02);
  assert.ok(clear > 0);
  const tokens: number[] = [];
  for await (const token of cuda.generate(prompt, { maxTokens: clear, ignoreEos: true })) tokens.push(token.id);
  assert.equal(tokens, greedy.slice(0, clear));
});

test('a fork and a truncated session go on as a fresh one does', async ({ cuda }) => {
  const options = { maxTokens: 4, ignoreEos: true };
  const session = await cuda.createSession({ attention: plan });
  await session.evaluate([5, 6, 7, 8, 9, 10, 11]);
  const fork = await session.fork();
  const first = await session.complete([12, 13], options);
  await session.truncate(7);
  const again = await session.complete([12, 13], options);
  const forked = await fork.complete([12, 13], options);
  assert.is(again.text, first.text);
  assert.is(forked.text, first.text);
  await session.close();
  await fork.close();
  assert.is(cuda.memory.cacheUsed, 0);
});

test('two models compute at once, in batches of several calls', async ({ cuda }) => {
  const other = await load('cuda');
  const options = { maxTokens: 5, ignoreEos: true };
  const prompts = [[3, 4, 5], [9, 8, 7, 6, 5, 4, 3, 2], [17]];
  const alone: string[] = [];
  for (const prompt of prompts) alone.push((await cuda.complete(prompt, options)).text);
  const together = await Promise.all([cuda, other].flatMap((model) => prompts.map((prompt) => model.complete(prompt, options))));
  assert.equal(
    together.map(({ text }) => text),
    [...alone, ...alone],
  );
  await other.close();
});

test('leaving the loop, aborting and closing in the middle give everything back', async () => {
  const model = await load('cuda');
  for await (const _ of model.generate([1, 2, 3], { maxTokens: 50, ignoreEos: true })) break;
  const abort = new AbortController();
  const aborted = model.complete([1, 2, 3], { maxTokens: 200, ignoreEos: true, signal: abort.signal });
  abort.abort();
  await refuses(aborted, 'ABORTED', /abort/i);
  assert.is(model.memory.cacheUsed, 0);
  const pending = model.complete([1, 2, 3], { maxTokens: 200, ignoreEos: true });
  const closed = refuses(pending, 'CLOSED', /closed/i);
  await model.close();
  await closed;
});

test('a process may end in the middle of a step', () => {
  const script = `const { loadModel } = require(${JSON.stringify(path.join(folder, 'dist'))});
    loadModel(${JSON.stringify(modelPath(name))}, { device: 'cuda', cacheTokens: 1024 }).then(async (model) => {
      for await (const token of model.generate([1, 2, 3], { maxTokens: 100, ignoreEos: true })) process.exit(token.id >= 0 ? 7 : 8);
    });`;
  assert.is(spawnSync(process.execPath, ['-e', script]).status, 7);
});

test('what the GPU cannot do is refused by name', async () => {
  await refuses(loadModel(modelPath(name), { device: 'cuda:7' }), 'DEVICE_UNAVAILABLE', /cuda:7/);
  await refuses(load('cuda', { cacheType: 'float32' }), 'OPTION_INVALID', /cacheType/);
  await refuses(load('cuda', { cacheTokens: 1e9 }), 'OUT_OF_MEMORY', /\d/);
});

test.run();

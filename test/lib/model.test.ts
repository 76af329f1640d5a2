// Models as built, where JavaScript's own life comes in: collection, callbacks that throw, odd end-of-sequence ids.
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { ChaiError, inspectModel, type LoadProgress, loadModel, readHeadPlan } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const starter = path.join(__dirname, '..', '..', 'models', 'starter');
const fixture = (name: string) => path.join(__dirname, '..', 'fixtures', name);

async function failure(work: Promise<unknown>): Promise<ChaiError> {
  const error = await work.then(
    () => undefined,
    (caught) => caught,
  );
  assert.instance(error, ChaiError);
  return error;
}

test('a session keeps its model alive', async () => {
  assert.type(globalThis.gc, 'function', 'run with --expose-gc');
  let collected = 0;
  const registry = new FinalizationRegistry(() => ++collected);
  const session = await (async () => {
    const model = await loadModel(starter);
    registry.register(model, 0);
    return model.createSession();
  })();
  for (let round = 0; round < 10; ++round) {
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.is(collected, 0);
  assert.is((await session.complete('Hello', { maxTokens: 3, ignoreEos: true })).usage.completionTokens, 3);
  await session.close();
});

test('progress tells its phase and grows to 1', async () => {
  const seen: LoadProgress[] = [];
  const model = await loadModel(starter, { onProgress: (progress) => seen.push(progress) });
  await model.close();
  assert.is(seen[0]?.phase, 'tokenizer');
  assert.is(seen.at(-1)?.phase, 'weights');
  assert.is(seen.at(-1)?.fraction, 1);
  for (const [i, { loaded, total, fraction }] of seen.entries()) {
    assert.is(fraction, loaded / total);
    assert.ok(i === 0 || fraction >= seen[i - 1]!.fraction);
  }
});

test('what onProgress throws ends the load, in either phase', async () => {
  for (const phase of ['tokenizer', 'weights']) {
    const onProgress = (progress: LoadProgress) => {
      if (progress.phase === phase) throw new Error('boom');
    };
    const error = await failure(loadModel(starter, { onProgress }));
    assert.is(error.code, 'OPTION_INVALID');
    assert.match(error.message, /onProgress threw: boom/);
    assert.is((error.cause as Error).message, 'boom');
  }
});

test('end-of-sequence ids beyond the vocabulary are left alone', async () => {
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'chai-llm-'));
  await fs.cp(fixture('llama-mha'), folder, { recursive: true });
  const prompt = [5, 6, 7];
  const plain = await loadModel(folder);
  const [first] = await ids(plain, prompt);
  await plain.close();
  // 2^32 + id would become id in a 32-bit integer
  await fs.writeFile(path.join(folder, 'generation_config.json'), JSON.stringify({ eos_token_id: [2 ** 32 + first!, 320, -1, 'x', null] }));
  const model = await loadModel(folder);
  assert.equal(await ids(model, prompt), [first]);
  await model.close();
  await fs.writeFile(path.join(folder, 'generation_config.json'), JSON.stringify({ eos_token_id: first }));
  const stopping = await loadModel(folder);
  assert.equal(await ids(stopping, prompt), []);
  await stopping.close();
  await fs.rm(folder, { recursive: true });
});

async function ids(model: Awaited<ReturnType<typeof loadModel>>, prompt: number[]): Promise<number[]> {
  const found: number[] = [];
  for await (const { id } of model.generate(prompt, { maxTokens: 1 })) found.push(id);
  return found;
}

test('what a directory holds', async () => {
  const info = await inspectModel(starter);
  // 3 + 8 + 8 + 8 key heads of 32, all 32 value heads: 59 of 64
  assert.equal(info.cacheBytesPerToken.float16, { dense: 2048, clustered: 1888 });
  assert.equal(info.warmup, { start: 0, tokens: 5 });
  assert.equal(info.weightBytesByType, { float16: info.weightBytes });
  assert.is(info.weightBytes, info.parameters * 2);
  const plain = await inspectModel(fixture('opt-pre'));
  assert.equal([plain.headPlan, plain.warmup, plain.cacheBytesPerToken.float16.clustered], [undefined, undefined, undefined]);
});

test('errors of functions show the line of the caller', async () => {
  async function callingFunction() {
    await inspectModel('/nowhere');
  }
  assert.match((await failure(callingFunction())).stack?.split('\n')[1] ?? '', /callingFunction.*model\.test/);
  async function loadingFunction() {
    await loadModel('/nowhere');
  }
  assert.match((await failure(loadingFunction())).stack?.split('\n')[1] ?? '', /loadingFunction.*model\.test/);
  for (const bad of [7, undefined, '', null]) assert.is((await failure(inspectModel(bad as never))).code, 'OPTION_INVALID');
  assert.is((await failure(readHeadPlan(7 as never))).code, 'OPTION_INVALID');
});

test.run();

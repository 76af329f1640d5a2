// `chai-llm info`: against the files themselves and against what the allocator really hands out. In: model directories. Out: numbers.
import fs from 'node:fs';
import path from 'node:path';
import { loadModel } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { cli, root, starter } from './programs';

const grouped = path.join(root, 'test', 'fixtures', 'llama-gqa-tied-bf16');

/** Elements of all tensors of a safetensors file, by its header. */
function elements(directory: string): number {
  const file = fs.readFileSync(path.join(directory, 'model.safetensors'));
  const header = JSON.parse(file.toString('utf8', 8, 8 + Number(file.readBigUInt64LE(0))));
  const tensors = Object.entries<{ shape: number[] }>(header).filter(([name]) => name !== '__metadata__');
  return tensors.reduce((sum, [, { shape }]) => sum + shape.reduce((product, size) => product * size, 1), 0);
}

/** K/V bytes that a session of so many tokens really holds. */
async function measured(directory: string, cacheType: 'float32' | 'float16' | 'bfloat16', tokens: number, attention: string) {
  const model = await loadModel(directory, { cacheType, attention });
  const session = await model.createSession();
  const { vocabularySize } = model.config;
  await session.evaluate(
    Array.from({ length: tokens }, (_, i) => (i * 7 + 3) % vocabularySize),
    { logits: 'none' },
  );
  const { keys, values } = session.cacheBytes;
  await model.close();
  return keys + values;
}

test('--json: the numbers of the files, and the memory that the allocator hands out', async () => {
  for (const tokens of [256, 100]) {
    const { code, out, err } = await cli(['info', starter, '--json', '--context-length', String(tokens)]);
    assert.is(code, 0);
    assert.is(err, '');
    const { model, memory, devices } = JSON.parse(out);
    assert.is(model.parameters, elements(starter));
    assert.is(model.weightBytes, 2 * elements(starter));
    assert.equal(model.weightTypes, ['float16']);
    assert.is(model.hasChatTemplate, false);
    assert.is(model.config.layers, 4);
    assert.equal(model.headPlan, JSON.parse(fs.readFileSync(path.join(starter, 'head-plan.json'), 'utf8')));
    assert.is(memory.contextLength, tokens);
    assert.is(memory.cache.length, 3);
    for (const { cacheType, dense, clustered, withWeights } of memory.cache) {
      assert.is(dense, await measured(starter, cacheType, tokens, 'dense'), `${cacheType}, ${tokens} tokens, dense`);
      assert.is(clustered, await measured(starter, cacheType, tokens, 'chai'), `${cacheType}, ${tokens} tokens, chai`);
      assert.is(withWeights, model.weightBytes + clustered);
    }
    assert.is(devices[0].id, 'cpu');
  }
});

test('without a head plan there is nothing clustered to tell', async () => {
  const { code, out } = await cli(['info', grouped, '--json']);
  assert.is(code, 0);
  const { model, memory } = JSON.parse(out);
  assert.is(model.headPlan, undefined);
  assert.is(model.parameters, elements(grouped));
  const { contextLength } = model.config;
  for (const { cacheType, dense, clustered } of memory.cache) {
    assert.is(clustered, undefined);
    assert.is(dense, await measured(grouped, cacheType, contextLength - 1, 'dense'), cacheType);
  }
  assert.match((await cli(['info', grouped])).out, /^head plan +none: attention is dense$/m);
});

test('text for people: facts, the plan a layer, a table of memory, devices', async () => {
  const { code, out, err } = await cli(['info', starter]);
  assert.is(code, 0);
  assert.is(err, '');
  for (const line of [
    /^architecture +llama$/m,
    /^heads +8 query, 8 key\/value, size 16$/m,
    /^weights +float16, 1\.8 MB in 1 file$/m,
    /^chat template +no$/m,
    /^head plan +chai \(kmeans, 5 warm-up tokens from token 0\)$/m,
    /^ +layer 0 +3 clusters$/m,
    /^ +layers 1-3 +8 clusters$/m,
    /^float16 +524 kB +483 kB +-7\.8 % +2\.3 MB$/m, // 2 * 4 * 8 * 16 * 2 B * 256; 59 / 64 of it; with 1.85 MB of weights
    /^cpu: .+ free$/m,
  ])
    assert.match(out, line);
});

test('--devices needs no model, and says why there is no CUDA', async () => {
  const { code, out } = await cli(['info', '--devices']);
  assert.is(code, 0);
  assert.match(out, /^cpu: .+ free$/m);
  const { model, devices } = JSON.parse((await cli(['info', '--devices', '--json'])).out);
  assert.is(model, undefined);
  const cuda = devices.filter(({ id }: { id: string }) => id.startsWith('cuda'));
  if (!cuda.some(({ usable }: { usable: boolean }) => usable)) assert.match(out, /^cuda(:\d+)?: not used: .+$/m);
  for (const { id } of devices) assert.match(out, new RegExp(`^${id}: `, 'm'));
});

test.run();

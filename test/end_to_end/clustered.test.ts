// Clustered attention against a float64 reference written apart from the engine: memberships, logits, bytes of the compacted cache.
import { type LayerHeads, loadModel } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type ClusteredCase, clusteredCases, modelPath, readReference, relativeError } from './fixtures';

const limits = { float32: 1e-4, float16: 2e-3, bfloat16: 1e-2 } as const;

for (const [name, example] of clusteredCases())
  for (const [cacheType, limit] of Object.entries(limits) as [keyof typeof limits, number][])
    test(`${name}, ${cacheType} cache`, async () => {
      const model = await loadModel(modelPath(example.model), { cacheType, attention: example.plan });
      const session = await model.createSession();
      const logits = await session.evaluate(example.prompt, { logits: 'all' });
      // A rounded cache may tip a close decision; then the logits belong to another membership.
      if (cacheType === 'float32' || sameMembership(session.headMaps, example)) {
        checkMembership(session.headMaps, example);
        const error = relativeError(logits, example.logits);
        assert.ok(error <= limit, `relative error ${error}`);
      }
      checkCacheBytes(session.headMaps, session.cacheBytes, example);
      await model.close();
    });

function sameMembership(maps: LayerHeads[] | undefined, { memberships }: ClusteredCase): boolean {
  return memberships.every(
    ({ clusterOf, representatives }, layer) =>
      JSON.stringify([clusterOf, representatives]) === JSON.stringify([maps?.[layer]?.scoreOfQuery, maps?.[layer]?.queryOfScore]),
  );
}

function checkMembership(maps: LayerHeads[] | undefined, { memberships, plan, prompt }: ClusteredCase): void {
  if (plan.method !== 'chai') return;
  const end = (plan.warmupStart ?? 0) + (plan.warmupTokens ?? 5);
  assert.is(maps === undefined, prompt.length < end, 'head maps are known just when the warm-up is over');
  for (const [layer, { clusterOf, representatives, margin }] of memberships.entries()) {
    assert.ok(margin > 1e-6, 'the fixture decides clearly');
    assert.equal(maps?.[layer]?.scoreOfQuery, clusterOf, `layer ${layer}`);
    assert.equal(maps?.[layer]?.queryOfScore, representatives, `layer ${layer}`);
  }
}

/** Pages held are exactly the kept heads' share of the dense ones, as the allocator counts them. */
function checkCacheBytes(
  maps: LayerHeads[] | undefined,
  bytes: { keys: number; values: number; denseKeys: number; denseValues: number },
  example: ClusteredCase,
): void {
  if (!maps) {
    assert.is(bytes.keys, bytes.denseKeys);
    return;
  }
  const heads = readKeyValueHeads(example.model);
  const kept = maps.reduce((sum, map) => sum + map.keptKeys.length, 0);
  const values = maps.reduce((sum, map) => sum + map.keptValues.length, 0);
  assert.is(bytes.keys * heads * maps.length, bytes.denseKeys * kept);
  assert.is(bytes.values * heads * maps.length, bytes.denseValues * values);
}

function readKeyValueHeads(model: string): number {
  const config = require(`${modelPath(model)}/config.json`) as { num_key_value_heads?: number; num_attention_heads: number };
  return config.num_key_value_heads ?? config.num_attention_heads;
}

test('one cluster a head equals dense bit for bit', async () => {
  for (const name of ['llama-mha', 'llama-gqa-tied-bf16', 'mistral-window', 'opt-post']) {
    const model = await loadModel(modelPath(name), { attention: 'dense' });
    const { prompt } = readReference(name);
    const logits = async (attention: object | string) => {
      const session = await model.createSession({ attention } as never);
      return session.evaluate(prompt, { logits: 'all' });
    };
    const layers = Array.from({ length: model.config.layers }, () => ({ clusters: model.config.heads }));
    const every = await logits({ format: 'chai-llm/head-plan@1', method: 'chai', layers });
    assert.equal(every, await logits('dense'), name);
    await model.close();
  }
});

test('a k-means plan keeps sum k of sum H of the K cache', async () => {
  const model = await loadModel(modelPath('llama-many-heads'), {
    attention: { format: 'chai-llm/head-plan@1', method: 'chai', layers: [{ clusters: 4 }, { clusters: 7 }, { clusters: 2 }] },
  });
  const session = await model.createSession();
  await session.evaluate(readReference('llama-many-heads').prompt, { logits: 'none' });
  const { keys, denseKeys, values, denseValues } = session.cacheBytes;
  assert.is(keys * 48, denseKeys * 13);
  assert.is(values, denseValues);
  assert.is(model.memory.cacheUsed, keys + values);
  await model.close();
});

test.run();

// Head plans: what is accepted, what each method needs, and errors that name the field.
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { NativeConfig } from '../../lib/binding';
import { ChaiError } from '../../lib/errors';
import { type Attention, readHeadPlan, resolveAttention } from '../../lib/head_plan';

const config = { layers: 2, heads: 4, keyValueHeads: 4, headDim: 8 } as NativeConfig;
const plan = (fields: object = {}) =>
  ({ format: 'chai-llm/head-plan@1', method: 'chai', layers: [{ clusters: 2 }, { clusters: 4 }], ...fields }) as Attention;
const resolve = (attention: Attention, modelPlan?: string) => resolveAttention(attention, config, modelPlan);

async function refused(work: Promise<unknown>, words: RegExp): Promise<void> {
  const error = await work.then(
    () => undefined,
    (caught) => caught,
  );
  assert.instance(error, ChaiError);
  assert.is(error.code, 'PLAN_INVALID', error.message);
  assert.match(error.message, words);
}

test('defaults are filled in', async () => {
  assert.equal(await resolve(plan()), {
    method: 'chai',
    warmupTokens: 5,
    warmupStart: 0,
    clustering: 'kmeans',
    headGroups: 1,
    layers: [
      { clusters: 2, keyHeads: 0 },
      { clusters: 4, keyHeads: 0 },
    ],
  });
});

test('without a plan auto is dense, and chai names the command that makes one', async () => {
  assert.is((await resolve('auto')).method, 'dense');
  assert.is((await resolve('dense', 'anything')).method, 'dense');
  await refused(resolve('chai'), /calibrate/);
  await refused(resolve('chai-static'), /calibrate/);
  await refused(resolve('/nowhere/plan.json'), /nowhere/);
});

test('errors name the field', async () => {
  await refused(resolve(plan({ layers: [{ clusters: 2 }] })), /1 layers.*2/);
  await refused(resolve(plan({ layers: [{ clusters: 5 }, { clusters: 1 }] })), /layers\.0\.clusters/);
  await refused(resolve(plan({ layers: [{ clusters: 0 }, { clusters: 1 }] })), /layers\.0\.clusters/);
  await refused(resolve(plan({ layers: [{}, { clusters: 1 }] })), /layers\.0.*clusters/);
  await refused(resolve(plan({ format: 'other' })), /format/);
  await refused(resolve(plan({ method: 'magic' })), /method/);
  await refused(resolve(plan({ warmupStart: 255, warmupTokens: 5 })), /256/);
  await refused(resolve(plan({ warmupTokens: 0 })), /warmupTokens/);
  await refused(resolve(plan({ model: { heads: 8 } })), /heads 8.*4/);
  await refused(resolve(plan({ method: 'explicit' })), /map/);
  await refused(resolve(plan({ layers: 'all' })), /layers/);
});

test('chai-static takes memberships and finds default representatives', async () => {
  const layers = [{ clusterOf: [0, 1, 0, 1] }, { clusterOf: [0, 0, 0, 0], representatives: [3] }];
  const { layers: resolved } = await resolve(plan({ method: 'chai-static', layers }));
  assert.equal(resolved, [
    { clusters: 2, keyHeads: 0, clusterOf: [0, 1, 0, 1], representatives: [0, 1] },
    { clusters: 1, keyHeads: 0, clusterOf: [0, 0, 0, 0], representatives: [3] },
  ]);
  const broken = (layer: object) => resolve(plan({ method: 'chai-static', layers: [layer, { clusterOf: [0, 0, 0, 0] }] }));
  await refused(broken({ clusters: 2 }), /clusterOf/);
  await refused(broken({ clusterOf: [0, 2, 0, 2] }), /cluster 1/);
  await refused(broken({ clusterOf: [0, 1] }), /2 entries/);
  await refused(broken({ clusters: 2, clusterOf: [0, 1, 2, 0] }), /beyond/);
  await refused(broken({ clusterOf: [0, 1, 0, 1], representatives: [0, 4] }), /head beyond/);
  await refused(broken({ clusterOf: [0, 1, 0, 1], representatives: [0] }), /representatives/);
  await refused(broken({ clusterOf: [0, 1, 0, 1], representatives: [0, 2] }), /representatives\.1: head 2 is not a member of cluster 1/);
});

test('files are read; bad JSON and missing files are PLAN_INVALID', async () => {
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'chai-llm-'));
  const file = path.join(folder, 'plan.json');
  await fs.writeFile(file, JSON.stringify(plan()));
  assert.is((await readHeadPlan(file)).method, 'chai');
  assert.is((await resolve('chai-static', file).catch((error) => error)).code, 'PLAN_INVALID');
  await fs.writeFile(file, '{"format"');
  await refused(readHeadPlan(file), /JSON/);
  await fs.rm(folder, { recursive: true });
});

test('any JSON is a plan or PLAN_INVALID', async () => {
  const field = fc.oneof(fc.jsonValue(), fc.constantFrom(2, 'chai', 'chai-static', [{ clusters: 1 }, { clusterOf: [0, 0, 0, 0] }]));
  const plans = fc.record(
    { format: fc.constant('chai-llm/head-plan@1'), method: field, layers: field, warmupTokens: field, model: field },
    { requiredKeys: [] },
  );
  await fc.assert(
    fc.asyncProperty(plans, async (value) => {
      const error = await resolve(value as Attention).then(
        () => undefined,
        (caught) => caught,
      );
      if (error) assert.is(error.code, 'PLAN_INVALID', String(error.stack));
    }),
    { numRuns: 1000 },
  );
});

test.run();

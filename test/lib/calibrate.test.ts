// The rooms of a calibration alone: clustering from inner products against the engine's, elbows, partitions, sharing out, searches, states.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { native } from '../../lib/binding';
import { allocate, lossCurve } from '../../lib/calibrate/allocation';
import { averageLinkage, clusterHeads, clusteringError, representativesOf } from '../../lib/calibrate/clustering';
import { elbow } from '../../lib/calibrate/elbow';
import { addCorrelation, centreDistances } from '../../lib/calibrate/gram';
import { checkOptions } from '../../lib/calibrate/options';
import { adjustedRandIndex, PartitionCounts } from '../../lib/calibrate/partitions';
import { keyValueSaving, makePlan, planText, staticSaving } from '../../lib/calibrate/plan';
import { inOrder } from '../../lib/calibrate/room';
import { drawSamples } from '../../lib/calibrate/samples';
import { countsToTry, mostMeasurements, search } from '../../lib/calibrate/search';
import { packed, State, unpacked } from '../../lib/calibrate/state';
import type { ModelConfig } from '../../lib/config';
import { ChaiError } from '../../lib/errors';
import { randomNumbers } from '../../lib/evaluate/random';
import { resolveAttention } from '../../lib/head_plan';
import { Turn } from '../../lib/turn';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-calibrate-'));
process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
const turn = new Turn(undefined, 'the calibration');

const near = (found: number, expected: number, what = '') =>
  assert.ok(Math.abs(found - expected) < 1e-9 * Math.max(1, Math.abs(expected)), `${what} ${found}, expected ${expected}`);

/** Inner products by their definition. */
function gramOf(features: number[][]): Float64Array {
  const products = features.flatMap((a) => features.map((b) => a.reduce((sum, value, i) => sum + value * (b[i] as number), 0)));
  return Float64Array.from(products);
}

const config = (layers: number, heads: number, keyValueHeads = heads) => ({ layers, heads, keyValueHeads, headDim: 8 }) as ModelConfig;

async function refused(work: Promise<unknown>, words: RegExp): Promise<void> {
  const error = await work.then(
    () => undefined,
    (caught) => caught,
  );
  assert.instance(error, ChaiError);
  assert.is(error.code, 'OPTION_INVALID', error.message);
  assert.match(error.message, words);
}

/** Feature vectors of some heads: random, some of them copies with a little noise, as heads of a layer are. */
const features = fc.tuple(fc.integer({ min: 1, max: 14 }), fc.integer({ min: 1, max: 30 }), fc.nat()).map(([heads, length, seed]) => {
  const random = randomNumbers(seed);
  const vectors: number[][] = [];
  for (let head = 0; head < heads; ++head) {
    const like = vectors[Math.floor(random() * 2 * heads)];
    vectors.push(Array.from({ length }, (_, i) => (like ? (like[i] as number) + 0.05 * random() : random())));
  }
  return vectors;
});

test('clusters and representatives from inner products are those the engine finds from features', () => {
  const property = fc.property(features, fc.double({ min: 0, max: 0.999, noNaN: true }), (vectors, share) => {
    const heads = vectors.length;
    const clusters = 1 + Math.floor(share * heads);
    const gram = gramOf(vectors);
    for (const clustering of ['kmeans', 'average-linkage-cosine'] as const) {
      const plan = { clusters, clustering, headGroups: 1, keyValueHeads: heads, keyHeads: 0 };
      const expected = native.clusterHeads(Float64Array.from(vectors.flat()), heads, plan);
      const clusterOf = clusterHeads(gram, heads, clusters, clustering);
      assert.equal(clusterOf, expected.clusterOf, clustering);
      assert.equal(representativesOf(gram, clusterOf, clusters), expected.representatives, clustering);
    }
  });
  fc.assert(property, { numRuns: 400, seed: 7 });
});

test('k-means by hand', () => {
  // On a line: 0, 1, 10, 11, 30. Farthest first from head 0: 30, then 11. Centres 0.5, 10.5, 30.
  const gram = gramOf([[0], [1], [10], [11], [30]]);
  assert.equal(clusterHeads(gram, 5, 3, 'kmeans'), [0, 0, 1, 1, 2]);
  near(clusteringError(gram, [0, 0, 1, 1, 2], 3), 1);
  assert.equal(representativesOf(gram, [0, 0, 1, 1, 2], 3), [0, 2, 4]);
  near(clusteringError(gram, [0, 0, 0, 0, 0], 1), 581.2, 'mean 10.4: 108.16 + 88.36 + 0.16 + 0.36 + 384.16');
});

test('one run of merges gives the clusters of every k', () => {
  const property = fc.property(features, (vectors) => {
    const gram = gramOf(vectors);
    const stages = averageLinkage(gram, vectors.length, 1);
    assert.is(stages.length, vectors.length);
    for (const [i, clusterOf] of stages.entries()) {
      assert.is(new Set(clusterOf).size, i + 1);
      assert.equal(clusterHeads(gram, vectors.length, i + 1, 'average-linkage-cosine'), clusterOf);
    }
  });
  fc.assert(property, { numRuns: 60, seed: 3 });
});

test('distances to centres are those of the features themselves', () => {
  const property = fc.property(features, (vectors) => {
    const clusters = Math.min(3, vectors.length);
    const clusterOf = vectors.map((_, head) => head % clusters);
    const found = centreDistances(gramOf(vectors), clusterOf, clusters);
    for (let cluster = 0; cluster < clusters; ++cluster) {
      const members = vectors.filter((_, head) => clusterOf[head] === cluster);
      const centre = (members[0] as number[]).map(
        (_, i) => members.reduce((sum, member) => sum + (member[i] as number), 0) / members.length,
      );
      vectors.forEach((vector, head) => {
        const expected = vector.reduce((sum, value, i) => sum + (value - (centre[i] as number)) ** 2, 0);
        near(found[head * clusters + cluster] as number, expected);
      });
    }
  });
  fc.assert(property, { numRuns: 60, seed: 5 });
});

test('correlation of softmax rows needs inner products alone', () => {
  const random = randomNumbers(11);
  const rows = 4; // causal: 1, 2, 3 and 4 entries, each row with sum 1
  const vectors = Array.from({ length: 3 }, () =>
    Array.from({ length: rows }, (_, row) => {
      const weights = Array.from({ length: row + 1 }, () => random());
      return weights.map((weight) => weight / weights.reduce((sum, value) => sum + value, 0));
    }).flat(),
  );
  const found = new Float64Array(9);
  addCorrelation(found, gramOf(vectors), 3, rows, 10);
  const pearson = (a: number[], b: number[]) => {
    const centred = (values: number[]) => values.map((value) => value - values.reduce((sum, other) => sum + other, 0) / values.length);
    const product = (x: number[], y: number[]) => x.reduce((sum, value, i) => sum + value * (y[i] as number), 0);
    const [x, y] = [centred(a), centred(b)];
    return product(x, y) / Math.sqrt(product(x, x) * product(y, y));
  };
  vectors.forEach((a, i) => {
    vectors.forEach((b, j) => {
      near(found[i * 3 + j] as number, pearson(a, b), `${i}, ${j}`);
    });
  });
});

test('the elbow is where a curve stops falling', () => {
  assert.is(elbow([100, 12, 9, 7, 5, 3, 1, 0]), 2);
  assert.is(elbow([100, 80, 60, 40, 3, 2, 1, 0]), 5);
  assert.is(elbow([64, 49, 36, 25, 16, 9, 4, 1, 0]), 5, 'symmetric: below the line by (x - x^2), most in the middle');
  assert.is(elbow([100, 40, 38, 37, 36, 5, 4, 3, 2, 1, 0]), 2, 'the first of two knees');
  assert.is(elbow([5, 5, 5, 5]), 1, 'one cluster says it all');
  assert.is(elbow([0, 0]), 1);
  assert.is(elbow([3]), 1);
});

test('agreement of groupings', () => {
  near(adjustedRandIndex([0, 0, 1, 1], [1, 1, 0, 0]), 1);
  // Pairs: 1 together in both, 2 and 1 in each, expected 1/3: (1 - 1/3) / (3/2 - 1/3) = 4/7.
  near(adjustedRandIndex([0, 0, 1, 1], [0, 0, 1, 2]), 4 / 7);
  near(adjustedRandIndex([0, 0, 0, 0], [0, 1, 2, 3]), 0);
  near(adjustedRandIndex([0, 1, 0, 1], [0, 0, 1, 1]), -0.5);
  near(adjustedRandIndex([0, 1, 2], [0, 1, 2]), 1);
  near(adjustedRandIndex([0], [0]), 1);
});

test('the typical grouping agrees with most samples on most pairs', async () => {
  const random = randomNumbers(2);
  for (let round = 0; round < 30; ++round) {
    const counts = new PartitionCounts(5);
    const seen: number[][] = [];
    for (let i = 0; i < 12; ++i) {
      const clusterOf = Array.from({ length: 5 }, () => Math.floor(random() * 2));
      counts.add(clusterOf);
      seen.push(clusterOf);
    }
    const pairs = (a: readonly number[]) => a.flatMap((x, i) => a.slice(i + 1).map((y) => x === y));
    const agreement = (a: readonly number[]) =>
      seen.reduce((sum, other) => sum + pairs(a).filter((same, p) => same === pairs(other)[p]).length, 0);
    const clusterOf = await counts.median(turn);
    assert.is(agreement(clusterOf), Math.max(...seen.map(agreement)));
    near(counts.share(clusterOf), seen.filter((other) => other.join() === clusterOf.join()).length / 12);
  }
  const clear = new PartitionCounts(3);
  for (const clusterOf of [
    [0, 1, 1],
    [0, 0, 1],
    [0, 1, 1],
    [0, 1, 0],
    [0, 1, 1],
  ])
    clear.add(clusterOf);
  assert.equal(await clear.median(turn), [0, 1, 1]);
  near(clear.share([0, 1, 1]), 0.6);
  near(clear.share([0, 0, 0]), 0);
});

test('counts are shared out best for losses that add up', async () => {
  const random = randomNumbers(4);
  for (let round = 0; round < 20; ++round) {
    const layers = Array.from({ length: 3 }, () =>
      Array.from({ length: 4 }, (_, saved) => ({ clusters: 4 - saved, saved, loss: saved === 0 ? 0 : Math.round(random() * 100) })),
    );
    const { losses, counts } = await allocate(layers, turn);
    assert.is(losses.length, 10);
    for (let saved = 0; saved <= 9; ++saved) {
      let best = Number.POSITIVE_INFINITY;
      for (let code = 0; code < 64; ++code) {
        const chosen = layers.map((choices, layer) => choices[(code >> (2 * layer)) & 3]);
        if (chosen.reduce((sum, choice) => sum + (choice?.saved ?? 0), 0) === saved)
          best = Math.min(
            best,
            chosen.reduce((sum, choice) => sum + (choice?.loss ?? 0), 0),
          );
      }
      assert.is(losses[saved], best);
      const found = counts(saved).map((clusters, layer) => layers[layer]?.find((choice) => choice.clusters === clusters));
      assert.is(
        found.reduce((sum, choice) => sum + (choice?.saved ?? 0), 0),
        saved,
      );
      assert.is(
        found.reduce((sum, choice) => sum + (choice?.loss ?? 0), 0),
        best,
      );
    }
  }
});

test('losses between those measured lie on straight lines, and never fall with k', () => {
  const measured = [
    { clusters: 2, loss: 0.8 },
    { clusters: 6, loss: -0.1 },
    { clusters: 4, loss: 0.2 },
    { clusters: 1, loss: 0.7 },
  ];
  const expected = [0.8, 0.8, 0.5, 0.2, 0.1, 0, 0, 0];
  for (const [i, loss] of lossCurve(measured, 8).entries()) near(loss, expected[i] as number, `k = ${i + 1}`);
  assert.equal(lossCurve([], 3), [0, 0, 0]);
});

test('a search meets its budget by measured loss, within the measurements it promised', async () => {
  const shape = config(4, 8);
  const elbows = [2, 3, 3, 4];
  const weights = [0.001, 0.05, 0.01, 0.02];
  let measurements = 0;
  // Layers 2 and 3 hurt each other: losses do not add up.
  const loss = (clusters: readonly number[]) => {
    const each = clusters.map((k, layer) => (weights[layer] as number) * ((8 - k) / 7) ** 2);
    return each.reduce((sum, one) => sum + one, 0) + 20 * (each[2] as number) * (each[3] as number);
  };
  const measure = async (clusters: readonly number[]) => {
    ++measurements;
    return loss(clusters);
  };
  const meets = { config: shape, measure, turn };
  for (const keyValueSaving_ of [0, 0.1, 0.2, 0.3, 0.4375]) {
    measurements = 0;
    const budget = { keyValueSaving: keyValueSaving_ };
    const found = await search(budget, elbows, meets);
    assert.ok(keyValueSaving(found.clusters, shape) >= keyValueSaving_ - 1e-12, `${found.clusters}`);
    near(found.loss, loss(found.clusters));
    assert.ok(measurements <= mostMeasurements(shape, elbows, budget));
    const even = Array.from({ length: 4 }, () => Math.floor(8 - keyValueSaving_ * 16));
    assert.ok(found.loss <= loss(even) + 1e-12, `${found.clusters} against ${even}`);
  }
  let saved = 0;
  for (const perplexityIncrease of [0, 0.001, 0.01, 0.03, 1]) {
    measurements = 0;
    const found = await search({ perplexityIncrease }, elbows, meets);
    assert.ok(Math.expm1(loss(found.clusters)) <= perplexityIncrease + 1e-12);
    assert.ok(keyValueSaving(found.clusters, shape) >= saved);
    assert.ok(measurements <= mostMeasurements(shape, elbows, { perplexityIncrease }));
    saved = keyValueSaving(found.clusters, shape);
  }
  near(saved, 7 / 16, 'with room for everything, one cluster a layer');
});

test('only counts that save keys are tried', () => {
  assert.equal(countsToTry(config(1, 8), 3), [7, 6, 5, 4, 3, 2, 1]);
  assert.equal(countsToTry(config(1, 32), 32), [28, 24, 20, 16, 12, 8, 4, 1]);
  assert.equal(countsToTry(config(1, 8, 2), 5), [1]);
  assert.equal(countsToTry(config(1, 8, 1), 5), []);
});

test('savings are those of the key heads that are kept', () => {
  near(keyValueSaving([8, 4, 1, 8], config(4, 8)), (4 + 7) / 64);
  near(keyValueSaving([8, 1], config(2, 8, 2)), 1 / 8);
  near(
    staticSaving(
      [
        { clusters: 2, representatives: [0, 3] },
        { clusters: 2, representatives: [0, 7] },
      ],
      config(2, 8, 2),
    ),
    1 / 8,
  );
});

test('a plan is written as the library reads it', async () => {
  const shape = config(2, 4);
  const layers = [
    { clusters: 2, clusterOf: [0, 1, 1, 0], representatives: [3, 1] },
    { clusters: 4, clusterOf: [0, 1, 2, 3], representatives: [0, 1, 2, 3] },
  ];
  const rule = { warmupTokens: 7, warmupStart: 2, clustering: 'average-linkage-cosine', method: 'chai' } as const;
  const text = planText(makePlan(layers, rule, shape));
  assert.match(text, /"clusterOf": \[0, 1, 1, 0\],\n/);
  const file = path.join(folder, 'plan.json');
  fs.writeFileSync(file, text);
  const engine = { ...shape, hiddenSize: 32 } as never;
  for (const method of ['chai', 'chai-static'] as const) {
    const plan = await resolveAttention(method, engine, file);
    assert.is(plan.method, method);
    assert.equal([plan.warmupTokens, plan.warmupStart, plan.clustering], [7, 2, 'average-linkage-cosine']);
    assert.equal(
      plan.layers.map((layer) => layer.clusters),
      [2, 4],
    );
  }
});

/** One token a word. */
const words = {
  encode: async (text: string, special: boolean) => Int32Array.from([...(special ? [0] : []), ...text.trim().split(/\s+/).map(Number)]),
};
const numbered = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i).join(' ');

test('samples are whole windows, each once, and none of them is held out', async () => {
  const file = path.join(folder, 'numbers.txt');
  // 40 windows of 9 numbers behind the token that the tokenizer puts before a text, then a rest, and a document that is too short.
  fs.writeFileSync(file, `${numbered(1, 365)}\f${numbered(1000, 4)}`);
  const wishes = {
    text: [file],
    samples: 20,
    heldOut: 8,
    heldOutText: undefined,
    budget: undefined,
    length: 10,
    seed: 5,
    addSpecialTokens: true,
    signal: undefined,
  };
  const encoder = {
    encode: (text: string, special: boolean) =>
      text === 'a' ? Promise.resolve(Int32Array.from(special ? [0, 9] : [9])) : words.encode(text, special),
  };
  const drawn = await drawSamples(wishes, encoder);
  assert.is(drawn.windows, 40);
  assert.equal([drawn.samples.length, drawn.heldOut.length], [20, 8]);
  const all = [...drawn.samples, ...drawn.heldOut.map(({ ids }) => ids)];
  for (const ids of all) {
    assert.equal(Array.from(ids), [0, ...Array.from({ length: 9 }, (_, i) => (ids[1] as number) + i)]);
    assert.is(((ids[1] as number) - 1) % 9, 0);
  }
  assert.is(new Set(all.map((ids) => ids[1])).size, 28);
  assert.equal(await drawSamples(wishes, encoder), drawn);
  assert.not.equal(await drawSamples({ ...wishes, seed: 6 }, encoder), drawn);
  const few = await drawSamples({ ...wishes, samples: 96, heldOut: 32 }, encoder);
  assert.equal([few.samples.length, few.heldOut.length], [30, 10], 'too little text is shared out in proportion');
  const apart = await drawSamples({ ...wishes, heldOutText: [file], samples: 100 }, encoder);
  assert.equal([apart.samples.length, apart.heldOut.length], [40, 8]);
  await refused(drawSamples({ ...wishes, length: 200 }, encoder), /numbers\.txt has 1 passage of 200 tokens.*lower length/);
  await refused(drawSamples({ ...wishes, length: 2 }, encoder), /too short/);
  await refused(
    drawSamples({ ...wishes, budget: { keyValueSaving: 0 }, length: 92 }, encoder),
    /has 4 passages of 92 tokens, and at least 5/,
  );
});

test('options are refused by name', async () => {
  const check = async (options: object) =>
    checkOptions({ text: ['a.txt'], ...options }, { contextLength: 256, layers: 4, heads: 8, keyValueHeads: 8 });
  assert.is((await check({})).length, 256);
  assert.is(checkOptions({ text: ['a.txt'] }, { contextLength: 99, layers: 1, heads: 8, keyValueHeads: 8 }).length, 99);
  await refused(check({ budget: { keyValueSaving: 0.44 } }), /44 %.*43\.75 %/);
  await refused(check({ text: [] }), /option text: expected at least one path/);
  await refused(check({ samples: 0 }), /option samples: expected a whole number from 1/);
  await refused(check({ length: 300 }), /option length: 300 tokens are more than the 256/);
  await refused(check({ warmupStart: 60, length: 64 }), /warmupStart \+ warmupTokens is 65/);
  await refused(check({ warmupTokens: 255, warmupStart: 1 }), /is 256; it must be below length \(256\), and at most 255/);
  await refused(check({ budget: { keyValueSaving: 2 } }), /option budget/);
  await refused(check({ budget: { keyValueSaving: 0.1, perplexityIncrease: 0.1 } }), /option budget/);
  await refused(check({ budget: { perplexityIncrease: Number.NaN } }), /option budget/);
  await refused(check({ budget: { keyValueSaving: 0.1 }, heldOut: 3 }), /option heldOut: a budget takes 4/);
  await check({ clusters: [1, 8, 3, 8] });
  await refused(check({ clusters: [1, 8, 3] }), /3 counts, but the model has 4 layers/);
  await refused(check({ clusters: [1, 9, 3, 8] }), /9 clusters, but a layer has 8 heads/);
  await refused(check({ clusters: [1, 0, 3, 8] }), /option clusters.*from 1/);
  await refused(check({ clusters: [1, 8, 3, 8], budget: { keyValueSaving: 0.1 } }), /clusters and budget/);
  await refused(check({ clustering: 'other' }), /option clustering/);
  await refused(check({ resume: true }), /option resume: it takes a stateFile/);
  await refused(check({ keepState: true }), /option keepState: it takes a stateFile/);
  await refused(check({ sample: 3 }), /sample/);
});

test('a state is read as it was written, and nothing else is taken for one', async () => {
  const file = path.join(folder, 'work.state');
  const state = await State.open(file, true, 'this');
  state.keep('small', [1, 2]);
  const values = Float64Array.from([1 / 3, -0, Number.MAX_VALUE]);
  await state.set('large', () => packed(values), true);
  assert.equal(
    fs.readdirSync(folder).filter((name) => name.startsWith('work')),
    ['work.state'],
  );
  const again = await State.open(file, true, 'this');
  assert.equal(again.get('small'), [1, 2]);
  assert.equal(unpacked(again.get('large') as string, 3), values);
  assert.is(unpacked(again.get('large') as string, 4), undefined);
  assert.is(again.get('toString'), undefined);
  assert.is((await State.open(file, false, 'this')).get('small'), undefined);
  await refused(State.open(file, true, 'other'), /work\.state is of another model, another text or other options/);
  for (const text of ['', '{', '[]', '{"format":"x"}', 'null']) {
    fs.writeFileSync(file, text);
    await refused(State.open(file, true, 'this'), /is no state of a calibration/);
  }
  again.keep('late', 3);
  await again.finish(true);
  assert.is((await State.open(file, true, 'this')).get('late'), 3);
  await again.finish(false);
  assert.not.ok(fs.existsSync(file));
  await refused(State.open(folder, true, 'this'), /is no state/);
  await refused(
    (await State.open(path.join(folder, 'no', 'x'), false, '')).set('a', () => 1, true),
    /cannot write/,
  );
});

test('work under way side by side gives its results in order, and ends before a failure is told', async () => {
  let [open, most, ended] = [0, 0, 0];
  const work = async (item: number) => {
    most = Math.max(most, ++open);
    await new Promise((resolve) => setTimeout(resolve, (item * 7) % 11));
    --open;
    ++ended;
    if (item === 6) throw new Error('six');
    return item;
  };
  const seen: number[] = [];
  const error = await (async () => {
    for await (const item of inOrder([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 1, 3, work)) seen.push(item);
  })().catch((caught: Error) => caught.message);
  assert.is(error, 'six');
  assert.equal(seen, [1, 2, 3, 4, 5]);
  assert.is(most, 3);
  assert.is(open, 0);
  assert.ok(ended >= 6);
});

test.run();

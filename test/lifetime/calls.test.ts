// Every function of the native border: that it works, can be cancelled, and what it says once closed. In: right arguments. Out: values, codes.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type LayerHeads, type NativeCancel, type NativeModel, native } from '../../lib/binding';
import {
  chaiPlan,
  codeOf,
  collect,
  densePlan,
  externalBytes,
  generateOptions,
  ids,
  slowModel,
  type TinyModel,
  tinyModel,
} from './tiny_model';

let tiny: TinyModel;
let model: NativeModel;
test.before(async () => {
  tiny = tinyModel();
  model = await native.load(tiny.options, {});
});
test.after(async () => {
  await model.close();
  tiny.remove();
});

test('evaluate gives logits of the wanted shape, and score their log-probabilities', async () => {
  const sequence = model.createSequence(densePlan());
  const all = await sequence.evaluate(ids(6), 'all', {});
  assert.is(all.length, 6 * 64);
  assert.ok(all.every(Number.isFinite));
  sequence.truncate(0);
  assert.equal(await sequence.evaluate(ids(6), 'last', {}), all.slice(5 * 64));
  sequence.truncate(0);
  const scores = await sequence.evaluate(ids(6), 'score', {});
  assert.ok(Number.isNaN(scores[0]));
  for (let i = 1; i < 6; i++) {
    const row = all.slice((i - 1) * 64, i * 64);
    const expected = row[ids(6)[i]!]! - Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0));
    assert.ok(Math.abs(scores[i]! - expected) < 1e-5, `${scores[i]} ${expected}`);
  }
  assert.is((await sequence.evaluate(ids(2), 'none', {})).length, 0);
  assert.equal(sequence.tokens(), Int32Array.from([...ids(6), ...ids(2)]));
  await sequence.close();
});

test('a large result arrives whole, and V8 knows its size', async () => {
  const wide = tinyModel({ vocabularySize: 5000 });
  const other = await native.load(wide.options, {});
  const sequence = other.createSequence(densePlan());
  await collect();
  const before = externalBytes();
  const all = await sequence.evaluate(ids(100, 5000), 'all', {});
  assert.is(all.length, 500000);
  assert.ok(externalBytes() - before >= 2000000);
  const alone = other.createSequence(densePlan());
  assert.equal(await alone.evaluate(ids(100, 5000), 'last', {}), all.slice(99 * 5000));
  await other.close();
  wide.remove();
});

test('a generation is pulled to its end', async () => {
  const sequence = model.createSequence(chaiPlan());
  assert.is(sequence.headMaps(), undefined);
  const generation = sequence.generate(ids(8), generateOptions({ maxTokens: 11, logprobs: true }));
  const tokens: number[] = [];
  let logprobs = 0;
  let finish: string | undefined;
  while (!finish) {
    const ready = await generation.next();
    tokens.push(...ready.ids);
    logprobs += ready.logprobs.length;
    finish = ready.finish;
  }
  assert.is(finish, 'length');
  assert.is(tokens.length, 11);
  assert.is(logprobs, 11);
  assert.equal([...sequence.tokens()], [...ids(8), ...tokens]);
  const timings = generation.timings();
  assert.is(timings.promptTokens, 8);
  assert.ok(timings.decodeTokens >= 10 && timings.promptMs > 0 && timings.decodeMs > 0);
  const maps = sequence.headMaps() as LayerHeads[];
  assert.is(maps.length, 2);
  for (const map of maps) assert.ok(map.queryOfScore.length === 2 && map.scoreOfQuery.length === 4 && map.keptKeys.length <= 2);
  const bytes = sequence.cacheBytes();
  assert.ok(bytes.keys > 0 && bytes.keys <= bytes.denseKeys && bytes.values === bytes.denseValues);
  await sequence.close();
});

test('a stop token ends a generation and is not delivered', async () => {
  const sequence = model.createSequence(densePlan());
  const { ids: first } = await sequence.generate(ids(8), generateOptions({ maxTokens: 1 })).next();
  sequence.truncate(0);
  const ready = await sequence.generate(ids(8), generateOptions({ stopTokens: first })).next();
  assert.equal([ready.ids.length, ready.finish, ready.stopToken], [0, 'stop', first[0]]);
  assert.is(sequence.tokens().length, 8);
  await sequence.close();
});

test('stop rolls the sequence back to what was delivered, and is idempotent', async () => {
  const sequence = model.createSequence(densePlan());
  const generation = sequence.generate(ids(8), generateOptions({ maxTokens: 200 }));
  const { ids: first } = await generation.next();
  await Promise.all([generation.stop(1), generation.stop(1)]);
  assert.equal([...sequence.tokens()], [...ids(8), first[0]]);
  await generation.stop(1);
  assert.is(await codeOf(() => generation.next()), 'ABORTED');
  await sequence.close();
});

test('a fork goes on as its origin would', async () => {
  const sequence = model.createSequence(chaiPlan());
  await sequence.evaluate(ids(20), 'none', {});
  const fork = sequence.fork();
  assert.equal(fork.tokens(), sequence.tokens());
  const [a, b] = await Promise.all([sequence.evaluate(ids(3), 'last', {}), fork.evaluate(ids(3), 'last', {})]);
  assert.equal(a, b);
  await sequence.close();
  assert.is(fork.tokens().length, 23);
  await fork.close();
});

test('the model tells memory, statistics and device', async () => {
  const memory = model.memory();
  const parameters = 2 * (2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32) + 64 * 32 + 32;
  assert.is(memory.weights, parameters * 4);
  assert.ok(memory.cacheReserved > 0 && memory.cacheUsed <= memory.cacheReserved && memory.buffers > 0);
  const stats = model.stats();
  assert.ok(stats.steps > 0 && stats.rows > stats.steps && stats.largestBatch >= 1 && stats.stepMs > 0);
  assert.match(model.device(), /^cpu/);
});

test('devices lists the CPU first', () => {
  const cpu = native.devices()[0]!;
  assert.is(cpu?.id, 'cpu');
  assert.is(cpu?.usable, true);
  assert.is(cpu?.reason, undefined);
  assert.ok(cpu && cpu.name.length > 0 && cpu.detail.length > 0 && cpu.totalBytes >= cpu.freeBytes && cpu.freeBytes > 0);
});

test('a wish for a device asks that one alone', async () => {
  const idsOf = async (wish: string) => (await native.findDevices(wish)).map(({ id }) => id);
  assert.equal(await idsOf('cpu'), ['cpu']);
  assert.equal((await idsOf('auto'))[0], 'cpu');
  assert.is(await codeOf(() => native.findDevices(3 as unknown as string)), 'OPTION_INVALID');
});

test('clusterHeads groups equal heads', () => {
  const plan = { clusters: 2, clustering: 'kmeans', headGroups: 1, keyValueHeads: 4, keyHeads: 0 } as const;
  const features = Float64Array.from([1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1]);
  assert.equal(native.clusterHeads(features, 4, plan), { clusterOf: [0, 1, 0, 1], representatives: [0, 1] });
  assert.equal(native.clusterHeads(features, 4, { ...plan, clustering: 'average-linkage-cosine' }).clusterOf, [0, 1, 0, 1]);
});

test('progress ends at the whole, and is told on the event loop', async () => {
  const calls: [number, number][] = [];
  let inside = true;
  const loading = native.load(tiny.options, {}, (done, total) => calls.push(inside ? [-1, -1] : [done, total]));
  inside = false;
  const other = await loading;
  const total = other.memory().weights;
  assert.equal(calls.at(-1), [total, total]);
  for (let i = 1; i < calls.length; i++) assert.ok(calls[i]![0] >= calls[i - 1]![0] && calls[i]![1] === total);
  await other.close();
});

test('what onProgress throws rejects the load', async () => {
  const reason = new RangeError('no more');
  const error = await native
    .load(tiny.options, {}, () => {
      throw reason;
    })
    .then(
      () => undefined,
      (error: unknown) => error,
    );
  assert.is(error, reason);
});

test('a cancelled load rejects with ABORTED', async () => {
  const job: NativeCancel = {};
  const loading = native.load(tiny.options, job);
  job.cancel!();
  assert.is(await codeOf(() => loading), 'ABORTED');
  job.cancel!();
});

test('a cancelled evaluation rejects with ABORTED and leaves the sequence as it was', async () => {
  const slow = slowModel();
  const other = await native.load(slow.options, {});
  const sequence = other.createSequence(densePlan(4));
  await sequence.evaluate(ids(10), 'none', {});
  const job: NativeCancel = {};
  const evaluating = sequence.evaluate(ids(4000), 'none', job);
  job.cancel!();
  assert.is(await codeOf(() => evaluating), 'ABORTED');
  job.cancel!();
  assert.is(sequence.tokens().length, 10);
  await other.close();
  slow.remove();
});

test('one job at a time: the second is SESSION_BUSY', async () => {
  const slow = slowModel();
  const other = await native.load(slow.options, {});
  const sequence = other.createSequence(densePlan(4));
  const evaluating = sequence.evaluate(ids(2000), 'none', {});
  const calls: (() => unknown)[] = [
    () => sequence.evaluate(ids(1), 'none', {}),
    () => sequence.generate(ids(1), generateOptions()),
    () => sequence.truncate(0),
    () => sequence.fork(),
  ];
  for (const code of await Promise.all(calls.map(codeOf))) assert.is(code, 'SESSION_BUSY');
  await evaluating;
  const generation = sequence.generate(ids(1000), generateOptions());
  const first = generation.next();
  assert.is(await codeOf(() => generation.next()), 'SESSION_BUSY');
  assert.ok((await first).ids.length > 0);
  await other.close();
  slow.remove();
});

test('after close every method of a sequence says CLOSED', async () => {
  const sequence = model.createSequence(densePlan());
  const generation = sequence.generate(ids(5), generateOptions({ maxTokens: 100 }));
  assert.is(sequence.close(), sequence.close());
  await sequence.close();
  const calls: (() => unknown)[] = [
    () => sequence.evaluate(ids(1), 'none', {}),
    () => sequence.generate(ids(1), generateOptions()),
    () => sequence.tokens(),
    () => sequence.truncate(0),
    () => sequence.fork(),
    () => sequence.headMaps(),
    () => sequence.cacheBytes(),
    () => generation.next(),
  ];
  for (const call of calls) assert.is(await codeOf(call), 'CLOSED', String(call));
  await generation.stop(0);
  assert.is(typeof generation.timings().promptMs, 'number');
});

test('after close every method of a model and of its sequences says CLOSED', async () => {
  const other = await native.load(tiny.options, {});
  const sequence = other.createSequence(densePlan());
  const generation = sequence.generate(ids(5), generateOptions({ maxTokens: 100 }));
  assert.is(other.close(), other.close());
  const calls: (() => unknown)[] = [
    () => other.createSequence(densePlan()),
    () => other.memory(),
    () => other.stats(),
    () => other.device(),
    () => sequence.evaluate(ids(1), 'none', {}),
    () => sequence.generate(ids(1), generateOptions()),
    () => sequence.tokens(),
    () => sequence.truncate(0),
    () => sequence.fork(),
    () => sequence.headMaps(),
    () => sequence.cacheBytes(),
  ];
  for (const call of calls) assert.is(await codeOf(call), 'CLOSED', String(call));
  await other.close();
  for (const call of calls) assert.is(await codeOf(call), 'CLOSED', String(call));
  assert.is(await codeOf(() => generation.next()), 'CLOSED');
  await sequence.close();
  await generation.stop(0);
});

test.run();

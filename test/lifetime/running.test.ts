// Work under way while things are closed, dropped or collected. In: a tiny model. Out: settled promises and memory given back.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type NativeCancel, type NativeSequence, native } from '../../lib/binding';
import { chaiPlan, codeOf, collect, collectUntil, densePlan, generateOptions, ids, slowModel, tinyModel } from './tiny_model';

async function pull(sequence: NativeSequence, prompt: Int32Array, maxTokens: number): Promise<number[]> {
  const generation = sequence.generate(prompt, generateOptions({ maxTokens }));
  const tokens: number[] = [];
  for (;;) {
    const ready = await generation.next();
    tokens.push(...ready.ids);
    if (ready.finish) return tokens;
  }
}

test('closing a model ends what its sequences do', async () => {
  const slow = slowModel();
  const model = await native.load(slow.options, {});
  const sequences = [0, 1, 2].map(() => model.createSequence(densePlan(4)));
  const work: (() => unknown)[] = [
    () => sequences[0]!.evaluate(ids(4000), 'none', {}),
    () => pull(sequences[1]!, ids(600), 3000),
    () => sequences[2]!.generate(ids(4000), generateOptions({ maxTokens: 50 })).next(),
  ];
  const codes = Promise.all(work.map(codeOf));
  await model.close();
  assert.equal(await codes, ['CLOSED', 'CLOSED', 'CLOSED']);
  await Promise.all(sequences.map((sequence) => sequence.close()));
  slow.remove();
});

test('closing a sequence ends its work and leaves others alone', async () => {
  const slow = slowModel();
  const model = await native.load(slow.options, {});
  const [one, two] = [model.createSequence(densePlan(4)), model.createSequence(densePlan(4))];
  const evaluating = codeOf(() => one.evaluate(ids(4000), 'none', {}));
  const pulled = pull(two, ids(50), 20);
  await one.close();
  assert.is(await evaluating, 'CLOSED');
  assert.is((await pulled).length, 20);
  await two.close();
  assert.is(model.memory().cacheUsed, 0);
  await model.close();
  slow.remove();
});

test('cancelling takes effect within a step', async () => {
  const slow = slowModel();
  const model = await native.load(slow.options, {});
  const sequence = model.createSequence(densePlan(4));
  const job: NativeCancel = {};
  const evaluating = sequence.evaluate(ids(4000), 'none', job);
  await new Promise((resolve) => setTimeout(resolve, 5));
  job.cancel!();
  assert.is(await codeOf(() => evaluating), 'ABORTED');
  assert.ok(model.stats().rows < 4000);
  await model.close();
  slow.remove();
});

test('an unpulled generation stops at its queue, and many run beside each other', async () => {
  const tiny = tinyModel();
  const models = await Promise.all([native.load(tiny.options, {}), native.load(tiny.options, {})]);
  const alone = await pull(models[0]!.createSequence(chaiPlan()), ids(9), 30);
  const paused = models[0]!.createSequence(densePlan());
  const unpulled = paused.generate(ids(9), generateOptions({ maxTokens: 100 }));
  const together = await Promise.all(models.flatMap((model) => [0, 1, 2, 3].map(() => pull(model.createSequence(chaiPlan()), ids(9), 30))));
  for (const tokens of together) assert.equal(tokens, alone);
  assert.ok(paused.tokens().length <= 9 + 5);
  await unpulled.stop(0);
  assert.is(paused.tokens().length, 9);
  await Promise.all(models.map((model) => model.close()));
  tiny.remove();
});

test('promises keep alive what they wait for', async () => {
  const tiny = tinyModel();
  const model = await native.load(tiny.options, {});
  const logits = (() => model.createSequence(densePlan()).evaluate(ids(200), 'last', {}))();
  const tokens = (() => model.createSequence(densePlan()).generate(ids(200), generateOptions()).next())();
  await collect();
  assert.is((await logits).length, 64);
  assert.ok((await tokens).ids.length > 0);
  await model.close();
  tiny.remove();
});

test('a dropped generation frees its sequence, a dropped sequence its pages', async () => {
  const tiny = tinyModel();
  const model = await native.load(tiny.options, {});
  const sequence = model.createSequence(densePlan());
  (() => void sequence.generate(ids(9), generateOptions({ maxTokens: 200 })))();
  assert.ok(
    await collectUntil(() => {
      try {
        sequence.truncate(0);
        return true;
      } catch {
        return false;
      }
    }),
  );
  await sequence.close();
  await (() => model.createSequence(densePlan()).evaluate(ids(100), 'none', {}))();
  assert.ok(model.memory().cacheUsed > 0);
  assert.ok(await collectUntil(() => model.memory().cacheUsed === 0));
  await model.close();
  tiny.remove();
});

test('V8 knows the weight of a model: forgotten ones are collected without being asked', async () => {
  const large = tinyModel({ vocabularySize: 100000 }); // 13 MB of weights behind a few hundred bytes of JS heap
  const models: WeakRef<object>[] = [];
  const collected = (): boolean => models.some((model) => model.deref() === undefined);
  const forget = async (): Promise<void> => {
    const model = await native.load(large.options, {});
    model.createSequence(densePlan());
    models.push(new WeakRef(model));
  };
  for (let round = 0; round < 60 && !collected(); round++) {
    await forget();
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assert.ok(collected());
  assert.ok(await collectUntil(() => models.every((model) => model.deref() === undefined)));
  large.remove();
});

test('close and collection give the memory back', async () => {
  const large = tinyModel({ vocabularySize: 100000 });
  await collect();
  const before = process.memoryUsage().rss;
  for (let round = 0; round < 20; round++) {
    const model = await native.load(large.options, {});
    model.createSequence(densePlan());
    if (round % 2) await model.close();
  }
  assert.ok(await collectUntil(() => process.memoryUsage().rss - before < 100e6), `${process.memoryUsage().rss - before}`);
  large.remove();
});

test('many rounds of load, use and close end well in any order', async () => {
  const tiny = tinyModel();
  for (let round = 0; round < 60; round++) {
    const job: NativeCancel = {};
    const loading = native.load(tiny.options, job);
    if (round % 5 === 1) job.cancel!();
    const model = await loading.catch(() => undefined);
    if (!model) continue;
    const sequence = model.createSequence(round % 2 ? densePlan() : chaiPlan());
    const work: Promise<unknown>[] = [sequence.evaluate(ids(100), 'last', {})];
    if (round % 3 === 0) work.push(sequence.close());
    if (round % 3 !== 1) work.push(model.close());
    for (const outcome of await Promise.allSettled(work)) if (outcome.status === 'rejected') assert.is(outcome.reason.code, 'CLOSED');
  }
  await collect();
  tiny.remove();
});

test.run();

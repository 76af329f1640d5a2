// Every fixture model against transformers: logits by cache type, greedy text, scores; chunked and mapped loading agree bit for bit.
import { loadModel } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { largestDifference, modelPath, models, readReference, relativeError } from './fixtures';

const limits = { float32: 1e-4, float16: 2e-3, bfloat16: 1e-2 } as const;

for (const name of models)
  for (const [cacheType, limit] of Object.entries(limits) as [keyof typeof limits, number][])
    test(`${name}, ${cacheType} cache: logits agree with transformers`, async () => {
      const reference = readReference(name);
      const model = await loadModel(modelPath(name), { cacheType, attention: 'dense' });
      const session = await model.createSession();
      const logits = await session.evaluate(reference.prompt, { logits: 'all' });
      const error = relativeError(logits, reference.logits);
      assert.ok(error <= limit, `relative error ${error}`);
      await model.close();
    });

for (const name of models)
  test(`${name}: greedy text equals transformers wherever its choice is clear`, async () => {
    const reference = readReference(name);
    const model = await loadModel(modelPath(name), { cacheType: 'float32', attention: 'dense' });
    const session = await model.createSession();
    const logits = await session.evaluate(reference.prompt, { logits: 'all' });
    const doubt = 2 * largestDifference(logits, reference.logits);
    session.truncate(0);
    const ids: number[] = [];
    for await (const token of session.generate(reference.prompt, { maxTokens: reference.greedy.length, ignoreEos: true }))
      ids.push(token.id);
    assert.is(ids.length, reference.greedy.length);
    for (const [i, id] of reference.greedy.entries()) {
      if (reference.margins[i]! <= doubt) break; // from an unclear choice on the texts may differ
      assert.is(ids[i], id, `token ${i}, margin ${reference.margins[i]}`);
    }
    assert.ok(reference.margins[0]! > doubt, 'the fixture compares at least one token');
    await model.close();
  });

test('scores are log-probabilities of the reference logits', async () => {
  const { prompt, logits, vocabulary } = readReference('llama-mha');
  const model = await loadModel(modelPath('llama-mha'), { attention: 'dense' });
  const session = await model.createSession();
  const scores = await session.score(prompt);
  assert.is(scores.length, prompt.length);
  assert.ok(Number.isNaN(scores[0]));
  for (let i = 1; i < prompt.length; ++i) {
    const row = logits.subarray((i - 1) * vocabulary, i * vocabulary);
    const sum = row.reduce((total, logit) => total + Math.exp(logit), 0);
    assert.ok(Math.abs(scores[i]! - (row[prompt[i]!]! - Math.log(sum))) < 1e-3, `token ${i}`);
  }
  await model.close();
});

test('mapped weights, other thread counts and chunked prompts give the same bits', async () => {
  const { prompt } = readReference('llama-sharded-f16');
  const bits = async (options: object, chunk: number) => {
    const model = await loadModel(modelPath('llama-sharded-f16'), { attention: 'dense', ...options });
    const session = await model.createSession();
    const all: number[] = [];
    for (let at = 0; at < prompt.length; at += chunk)
      all.push(...(await session.evaluate(prompt.slice(at, at + chunk), { logits: 'all' })));
    await model.close();
    return Float32Array.from(all);
  };
  const expected = await bits({}, prompt.length);
  for (const options of [{ mmap: true }, { threads: 1 }, { threads: 3 }]) assert.equal(await bits(options, prompt.length), expected);
  for (const chunk of [1, 5, 17]) assert.equal(await bits({}, chunk), expected);
});

test.run();

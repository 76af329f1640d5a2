// Generation as users see it: streams, batches, seeds, stop strings, sessions; what is delivered is what the session keeps.
import { loadModel, type Model } from 'chai-llm';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { modelPath, readReference } from './fixtures';

const test = suite<{ model: Model }>('generation');
test.before(async (context) => {
  context.model = await loadModel(modelPath('starter'));
});
test.after(async ({ model }) => {
  await model.close();
});

const collect = async (generation: AsyncIterable<{ id: number; text: string }>) => {
  const tokens: { id: number; text: string }[] = [];
  for await (const token of generation) tokens.push(token);
  return tokens;
};

test('streams the text that the ids decode to', async ({ model }) => {
  assert.is(model.attention, 'chai');
  const prompt = 'Once upon a time';
  const tokens = await collect(model.generate(prompt, { maxTokens: 40 }));
  const ids = [...model.tokenizer.encode(prompt), ...tokens.map(({ id }) => id)];
  assert.is(prompt + tokens.map(({ text }) => text).join(''), model.tokenizer.decode(ids));
});

test('16 concurrent calls run as batches and give the text each gives alone', async ({ model }) => {
  const prompts = Array.from({ length: 16 }, (_, i) => `Chapter ${i}. There was ${'very '.repeat(i)}much`);
  const options = { maxTokens: 24, temperature: 0.9, topK: 40, seed: 3 };
  const alone: string[] = [];
  for (const prompt of prompts) alone.push((await model.complete(prompt, options)).text);
  const together = await Promise.all(prompts.map((prompt) => model.complete(prompt, options)));
  assert.equal(
    together.map(({ text }) => text),
    alone,
  );
  assert.ok(model.stats.largestBatch >= 8, `largest batch ${model.stats.largestBatch}`);
  assert.is(model.memory.cacheUsed, 0);
});

test('a seed decides the text', async ({ model }) => {
  const text = async (seed: number) => (await model.complete('The king', { maxTokens: 30, temperature: 1, seed })).text;
  assert.is(await text(5), await text(5));
  assert.is.not(await text(5), await text(6));
});

test('a stop string ends the text before it, wherever tokens cut it', async ({ model }) => {
  const { text } = await model.complete('Once upon a time', { maxTokens: 60 });
  for (const stop of [text.slice(10, 13), text.slice(20, 31), text.slice(41, 42)]) {
    const result = await model.complete('Once upon a time', { maxTokens: 60, stop: ['never to be seen', stop] });
    assert.is(result.text, text.slice(0, text.indexOf(stop)));
    assert.is(result.finishReason, 'stop');
  }
  const whole = await model.complete('Once upon a time', { maxTokens: 60, stop: `${text.slice(-3)}never` });
  assert.is(whole.text, text);
  assert.is(whole.finishReason, 'length');
});

test('usage, timings and log-probabilities are filled in', async ({ model }) => {
  const generation = model.generate('A long way', { maxTokens: 12, logprobs: true });
  for await (const { logprob } of generation) assert.ok(logprob !== undefined && logprob <= 0 && Number.isFinite(logprob));
  const promptTokens = model.tokenizer.encode('A long way').length;
  assert.equal(generation.usage, { promptTokens, completionTokens: 12, totalTokens: promptTokens + 12 });
  assert.ok(generation.timings!.decodeTokensPerSecond > 0 && generation.timings!.timeToFirstTokenMs > 0);
  assert.is(generation.finishReason, 'length');
});

test('leaving the loop keeps just what was delivered', async ({ model }) => {
  const session = await model.createSession();
  const prompt = model.tokenizer.encode('The old man went');
  const seen: number[] = [];
  for await (const token of session.generate(prompt, { maxTokens: 100 })) {
    seen.push(token.id);
    if (seen.length === 7) break;
  }
  assert.equal(session.tokens, [...prompt, ...seen]);
  const rest = await collect(session.generate([], { maxTokens: 5 }));
  const whole = await collect(model.generate(prompt, { maxTokens: 12 }));
  assert.equal(
    [...seen, ...rest.map(({ id }) => id)],
    whole.map(({ id }) => id),
  );
  await session.close();
});

test('an AbortSignal ends the work with ABORTED and keeps what was delivered', async ({ model }) => {
  const session = await model.createSession();
  const stop = new AbortController();
  let count = 0;
  await rejects('ABORTED', async () => {
    for await (const _ of session.generate('The old man', { maxTokens: 200, signal: stop.signal })) if (++count === 5) stop.abort();
  });
  assert.is(session.tokens.length, model.tokenizer.encode('The old man').length + 5);
  await rejects('ABORTED', () => session.complete('more', { signal: AbortSignal.abort() }));
  assert.ok((await session.complete(' and', { maxTokens: 3 })).text.length > 0);
  await session.close();
});

test('sessions go on, fork and cut back', async ({ model }) => {
  const session = await model.createSession();
  await session.complete('Once there lived a fox', { maxTokens: 10 });
  const before = session.tokens;
  const twin = session.fork();
  const a = await session.complete(' who', { maxTokens: 8 });
  const b = await twin.complete(' who', { maxTokens: 8 });
  assert.is(a.text, b.text);
  session.truncate(before.length);
  assert.equal(session.tokens, before);
  assert.is((await session.complete(' who', { maxTokens: 8 })).text, a.text);
  await Promise.all([session.close(), twin.close()]);
});

test('a full context ends the text, an overlong prompt is refused', async ({ model }) => {
  const ids = readReference('llama-mha').prompt;
  const long = Array.from({ length: 250 }, (_, i) => ids[i % ids.length]! % 1000);
  const { usage, finishReason } = await model.complete(long, { ignoreEos: true });
  assert.equal([usage.totalTokens, finishReason], [256, 'length']);
  await rejects('CONTEXT_OVERFLOW', () => model.complete([...long, ...long]));
});

test('a chat template is applied once, with one beginning-of-sequence token', async () => {
  const chat = await loadModel(modelPath('llama3-rope'));
  const messages = [{ role: 'user', content: 'Say it' }];
  const text = chat.tokenizer.applyChatTemplate(messages);
  assert.is(text, '<s>[user] Say it\n[assistant] ');
  const ids = chat.tokenizer.encode(text, { addSpecialTokens: false });
  assert.is(ids.filter((id) => id === 0).length, 1);
  assert.is(chat.tokenizer.encode('Say it')[0], 0);
  const session = await chat.createSession();
  await session.complete({ messages }, { maxTokens: 2, ignoreEos: true });
  assert.equal(session.tokens.slice(0, ids.length), ids);
  await chat.close();
});

async function rejects(code: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    assert.is((error as { code: string }).code, code, String(error));
    return;
  }
  assert.unreachable(`expected ${code}`);
}

test.run();

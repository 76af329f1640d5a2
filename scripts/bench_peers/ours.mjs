// One side of the comparison: chai-llm, answering {prompt, generate, attention} messages. Out: milliseconds of prompt and generation.
import { loadModel } from 'chai-llm';

const [directory, threads] = process.argv.slice(2);
const model = await loadModel(directory, {
  device: 'cpu',
  threads: Number(threads),
  cacheType: 'float16',
  contextLength: 4096,
  maxBatch: 4,
});

process.on('message', async ({ prompt, generate, attention }) => {
  const session = await model.createSession({ attention });
  const started = performance.now();
  await session.evaluate(prompt.slice(0, -1), { logits: 'none' });
  const evaluated = performance.now();
  let first = 0;
  let last = 0;
  let count = 0;
  for await (const _token of session.generate(prompt.slice(-1), { maxTokens: generate, ignoreEos: true })) {
    last = performance.now();
    if (count++ === 0) first = last;
  }
  const cache = session.cacheBytes;
  await session.close();
  process.send({ promptMs: evaluated - started, decodeMs: last - first, decoded: count - 1, cacheBytes: cache.keys + cache.values });
});
process.send({ ready: true, version: `chai-llm, ${model.device}`, rss: process.memoryUsage().rss });

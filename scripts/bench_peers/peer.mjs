// The other side: node-llama-cpp on the GGUF file, answering the same messages as ours.mjs. Its package is found from `packageFolder`.
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [directory, threads, packageFolder, flash] = process.argv.slice(2);
const folder = path.join(path.resolve(packageFolder), 'node_modules', 'node-llama-cpp');
const { version } = createRequire(import.meta.url)(path.join(folder, 'package.json'));
const { getLlama } = await import(pathToFileURL(path.join(folder, 'dist', 'index.js')).href);
const llama = await getLlama({ gpu: false, build: 'never', skipDownload: true, maxThreads: Number(threads), logLevel: 'error' });
const model = await llama.loadModel({ modelPath: path.join(directory, 'model.gguf') });
const context = await model.createContext({
  contextSize: 4096,
  batchSize: 512,
  threads: Number(threads),
  flashAttention: flash === 'flash',
});
const sequence = context.getSequence();

process.on('message', async ({ prompt, generate }) => {
  await sequence.clearHistory();
  const started = performance.now();
  await sequence.evaluateWithoutGeneratingNewTokens(prompt.slice(0, -1));
  const evaluated = performance.now();
  let first = 0;
  let last = 0;
  let count = 0;
  for await (const _token of sequence.evaluate(prompt.slice(-1), { temperature: 0, yieldEogToken: true })) {
    last = performance.now();
    if (count++ === 0) first = last;
    if (count === generate) break;
  }
  process.send({ promptMs: evaluated - started, decodeMs: last - first, decoded: count - 1 });
});
process.send({ ready: true, version: `node-llama-cpp ${version}`, rss: process.memoryUsage().rss });

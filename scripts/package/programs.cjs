// What users write: one small program for each way to reach the package. In: a model directory. Out: sources, each of which prints `fine` at its end.

/** Milliseconds until the package is there, and until its addon is. */
const timing = `
const before = process.hrtime.bigint();
const chai = require('chai-llm');
const imported = process.hrtime.bigint();
chai.devices(); // loads the addon
const loaded = process.hrtime.bigint();
console.log(JSON.stringify({ requireMs: Number(imported - before) / 1e6, addonMs: Number(loaded - imported) / 1e6 }));
console.log('fine');
`;

const cjs = (model) => `
const chai = require('chai-llm');
const [cpu] = chai.devices();
if (cpu.id !== 'cpu' || !cpu.usable) throw new Error('no CPU');
(async () => {
  const model = await chai.loadModel(${JSON.stringify(model)}, { device: 'cpu' });
  const { text, usage } = await model.complete('Once upon a time', { maxTokens: 12 });
  if (usage.completionTokens !== 12 || text.length === 0) throw new Error(text);
  await model.close();
  console.log('fine');
})();
`;

const esm = `
import { createRequire } from 'node:module';
import * as esm from 'chai-llm';
import { devices } from 'chai-llm';
const cjs = createRequire(import.meta.url)('chai-llm');
for (const name of Object.keys(cjs)) if (cjs[name] !== esm[name]) throw new Error(name + ' differs between require and import');
if (devices()[0].id !== 'cpu') throw new Error('no CPU');
console.log('fine');
`;

const worker = (model) => `
const { isMainThread, parentPort, Worker } = require('node:worker_threads');
const { loadModel } = require('chai-llm');
if (isMainThread) {
  Promise.all([0, 1].map(() => new Promise((resolve, reject) =>
    new Worker(__filename).on('message', resolve).on('error', reject)))).then((counts) => {
      if (counts.join() !== '5,5') throw new Error(counts.join());
      console.log('fine');
  });
} else (async () => {
  const model = await loadModel(${JSON.stringify(model)}, { device: 'cpu' });
  parentPort.postMessage((await model.complete('Once', { maxTokens: 5 })).usage.completionTokens);
  await model.close();
})();
`;

/** Type-checked only; the marked line must be refused, so types that say \`any\` do not pass. */
const typed = `
import { type Completion, devices, loadModel, type Token } from 'chai-llm';
export async function main(): Promise<Completion> {
  const name: string = devices()[0]?.name ?? '';
  const model = await loadModel(name, { device: 'cpu' });
  for await (const token of model.generate('x', { maxTokens: 3 })) { const seen: Token = token; seen.text.trim(); }
  // @ts-expect-error: no such option
  model.generate('x', { max_tokens: 3 });
  return model.complete('x');
}
`;

/** To be bundled with chai-llm as an external. */
const bundled = `
import { devices, version } from 'chai-llm';
if (devices()[0].id !== 'cpu' || !version) throw new Error('no CPU');
console.log('fine');
`;

module.exports = { timing, cjs, esm, worker, typed, bundled };

// Loads, generates and closes many times and watches resident memory. Run: node --expose-gc test/soak/rounds.mjs [ROUNDS]; exit code 1 on growth.
import { loadModel } from 'chai-llm';

const rounds = Number(process.argv[2] ?? 1000);
const directory = new URL('../fixtures/llama-mha', import.meta.url).pathname;
const plan = { format: 'chai-llm/head-plan@1', method: 'chai', layers: [{ clusters: 2 }, { clusters: 3 }, { clusters: 1 }] };
const allowedGrowth = 20e6; // bytes between a third of the rounds and the end: the allocator's noise, far below one model a round

async function round(i) {
  const model = await loadModel(directory, { attention: i % 2 ? plan : 'dense' });
  const session = await model.createSession();
  const kept = session.complete('one', { maxTokens: 8, ignoreEos: true }).catch(() => {}); // CLOSED where the model goes first
  const broken = model.generate('two', { ignoreEos: true });
  await broken.next();
  if (i % 3 === 0) await broken.return();
  const failed = model.complete('x', { maxTokens: -1 }).catch(() => {});
  await Promise.allSettled(i % 5 === 0 ? [failed] : [kept, failed]); // some are closed in the middle of their work
  await model.close();
  await kept;
}

const samples = [];
for (let i = 0; i < rounds; ++i) {
  await round(i);
  if (i % 10 !== 9) continue;
  globalThis.gc?.();
  samples.push(process.memoryUsage().rss);
  if (process.stderr.isTTY) process.stderr.write(`\r${i + 1} of ${rounds}, ${(samples.at(-1) / 1e6).toFixed(1)} MB `);
}
const median = (list) => list.toSorted((a, b) => a - b)[list.length >> 1];
const third = Math.floor(samples.length / 3);
const growth = median(samples.slice(-third)) - median(samples.slice(third, 2 * third));
console.log(`${rounds} rounds: ${(median(samples.slice(third, 2 * third)) / 1e6).toFixed(1)} MB in the middle third, ${(growth / 1e6).toFixed(1)} MB more in the last`);
process.exit(growth > allowedGrowth ? 1 : 0);

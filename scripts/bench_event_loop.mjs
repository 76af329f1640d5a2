// How long does the library hold up the event loop? In: a model directory. Out: per phase, the longest turn in CPU time of the main thread,
// and the longest gap between turns with the part of it in which the kernel had the thread waiting for a core (Linux's schedstat).
// usage: node scripts/bench_event_loop.mjs MODEL [--threads 1] [--words 0] [--save FILE]
import fs from 'node:fs';
import os from 'node:os';
import { parseArgs } from 'node:util';
import { loadModel } from '../dist/index.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '1' },
    words: { type: 'string', default: '0' }, // of a long prompt
    save: { type: 'string' },
  },
});
const [directory = 'models/starter'] = positionals;

const stat = fs.openSync(`/proc/${process.pid}/task/${process.pid}/schedstat`);
const buffer = Buffer.alloc(128);
/** Milliseconds that the main thread has computed, and has waited for a core, since it began. */
function threadTimes() {
  const read = fs.readSync(stat, buffer, 0, buffer.length, 0);
  const [computed, waited] = buffer.toString('latin1', 0, read).split(' ');
  return { computed: Number(computed) / 1e6, waited: Number(waited) / 1e6 };
}

const phases = {};
let phase = 'idle';
let running = true;
let last = { at: performance.now(), ...threadTimes() };
function turn() {
  const now = { at: performance.now(), ...threadTimes() };
  const gap = now.at - last.at;
  const cpu = now.computed - last.computed;
  phases[phase] ??= { turns: 0, longestCpuMs: 0, longestGapMs: 0, waitedForCoreMs: 0, over5Cpu: 0, over5Gap: 0 };
  const seen = phases[phase];
  ++seen.turns;
  seen.longestCpuMs = Math.max(seen.longestCpuMs, cpu);
  if (gap > seen.longestGapMs) Object.assign(seen, { longestGapMs: gap, waitedForCoreMs: now.waited - last.waited });
  if (cpu > 5) ++seen.over5Cpu;
  if (gap > 5) ++seen.over5Gap;
  last = now;
  if (running) setTimeout(turn, 1);
}
setTimeout(turn, 1);
const rest = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

await rest(300);
phase = 'load';
const model = await loadModel(directory, { threads: Number(values.threads) });
phase = 'complete';
await model.complete('Once upon a time', { maxTokens: 100, ignoreEos: true });
phase = 'stream';
const session = await model.createSession();
for await (const _ of session.generate('The little dog', { maxTokens: 100, ignoreEos: true, temperature: 0.8 }));
await session.close();
phase = '16 at once';
await Promise.all(Array.from({ length: 16 }, (_, i) => model.complete(`Story ${i}`, { maxTokens: 60, ignoreEos: true })));
if (Number(values.words) > 0) {
  phase = 'long prompt';
  await model.complete('and then '.repeat(Number(values.words) / 2), { maxTokens: 4, ignoreEos: true });
}
phase = 'close';
await model.close();
await rest(100);
running = false;

const rounded = Object.fromEntries(
  Object.entries(phases).map(([name, seen]) => [
    name,
    Object.fromEntries(Object.entries(seen).map(([key, n]) => [key, Number(n.toFixed(2))])),
  ]),
);
console.table(rounded);
if (values.save) {
  const { threads, words } = values;
  const machine = { processor: os.cpus()[0]?.model, cores: os.cpus().length, loadAverage: os.loadavg()[0], node: process.version };
  const result = { date: new Date().toISOString().slice(0, 10), machine, threads: Number(threads), words: Number(words), phases: rounded };
  fs.writeFileSync(values.save, `${JSON.stringify(result, null, 2)}\n`);
}

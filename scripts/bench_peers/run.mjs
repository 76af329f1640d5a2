// Times chai-llm (dense and clustered) beside node-llama-cpp on the same weights, in turns, on one machine; prints a table, saves JSON.
// In: --model DIR (made by make_model.py), --peer DIR (a folder with node-llama-cpp installed). Out: bench/results/NAME.json.
import { execFileSync, fork } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    peer: { type: 'string' },
    threads: { type: 'string', default: '1' },
    prompt: { type: 'string', default: '512' },
    generate: { type: 'string', default: '128' },
    rounds: { type: 'string', default: '5' },
    out: { type: 'string' },
    help: { type: 'boolean' },
  },
});
if (options.help || !options.model) {
  console.log('usage: run.mjs --model DIR [--peer DIR] [--threads 1] [--prompt 512] [--generate 128] [--rounds 5] [--out FILE]\n');
  console.log('  DIR of --model: python scripts/bench_peers/make_model.py DIR');
  console.log('  DIR of --peer:  npm install --prefix DIR node-llama-cpp');
  process.exit(options.help ? 0 : 2);
}
const here = path.dirname(fileURLToPath(import.meta.url));
const promptLength = Number(options.prompt);
const generate = Number(options.generate);
const vocabulary = JSON.parse(fs.readFileSync(path.join(options.model, 'config.json'), 'utf8')).vocab_size;

function start(script, args) {
  const child = fork(path.join(here, script), args);
  let settle;
  child.on('message', (message) => settle.resolve(message));
  child.on('exit', (code) => settle.reject(new Error(`${script} ended with code ${code}`)));
  const answer = () =>
    new Promise((resolve, reject) => {
      settle = { resolve, reject };
    });
  const hello = answer();
  const round = (message) => {
    child.send(message);
    return answer();
  };
  return { child, hello, round };
}

const median = (list) => list.toSorted((a, b) => a - b)[list.length >> 1];
const summary = (list) => ({ median: median(list), min: Math.min(...list), max: Math.max(...list) });
const ours = start('ours.mjs', [options.model, options.threads]);
const sides = [
  { name: 'chai-llm dense', process: ours, attention: 'dense' },
  { name: 'chai-llm chai', process: ours, attention: 'chai' },
];
if (options.peer) {
  const peer = [options.model, options.threads, options.peer];
  sides.push({ name: 'node-llama-cpp', process: start('peer.mjs', peer) });
  sides.push({ name: 'node-llama-cpp, flash attention', process: start('peer.mjs', [...peer, 'flash']) });
}
for (const side of sides) {
  side.hello = await (side.process.hello ?? side.hello);
  side.prompt = [];
  side.decode = [];
}
const loadAtStart = os.loadavg();
for (let round = 0; round <= Number(options.rounds); ++round) {
  // New ids each round: a peer's prefix reuse would make the prompt free. Round 0 warms up.
  const prompt = Array.from({ length: promptLength }, () => 300 + Math.floor(Math.random() * (vocabulary - 300)));
  for (const side of sides) {
    const result = await side.process.round({ prompt, generate, attention: side.attention });
    if (round === 0) continue;
    side.prompt.push(((promptLength - 1) / result.promptMs) * 1000);
    side.decode.push((result.decoded / result.decodeMs) * 1000);
    side.cacheBytes = result.cacheBytes;
  }
}
for (const { child } of new Set(sides.map((side) => side.process))) child.disconnect();

const report = {
  what: 'CPU, same float16 weights, greedy, float16 K/V cache',
  date: new Date().toISOString(),
  commit: execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: here, encoding: 'utf8' }).trim(),
  cpu: os.cpus()[0]?.model,
  cores: os.availableParallelism(),
  threads: Number(options.threads),
  loadAverage: { before: loadAtStart, after: os.loadavg() },
  node: process.version,
  promptTokens: promptLength,
  generatedTokens: generate,
  depth: promptLength,
  rounds: Number(options.rounds),
  sides: sides.map((side) => ({
    name: side.name,
    version: side.hello.version,
    promptTokensPerSecond: summary(side.prompt),
    decodeTokensPerSecond: summary(side.decode),
    cacheBytes: side.cacheBytes,
  })),
};
console.table(
  report.sides.map((side) => ({
    engine: side.name,
    'prompt tok/s': side.promptTokensPerSecond.median.toFixed(1),
    'decode tok/s': side.decodeTokensPerSecond.median.toFixed(1),
    'decode min-max': `${side.decodeTokensPerSecond.min.toFixed(1)}-${side.decodeTokensPerSecond.max.toFixed(1)}`,
    'K/V bytes': side.cacheBytes ?? '',
  })),
);
console.log(
  `load average ${loadAtStart.map((x) => x.toFixed(2)).join(' ')} before, ${os
    .loadavg()
    .map((x) => x.toFixed(2))
    .join(' ')} after`,
);
if (options.out) {
  fs.mkdirSync(path.dirname(path.resolve(options.out)), { recursive: true });
  fs.writeFileSync(options.out, `${JSON.stringify(report, null, 2)}\n`);
}

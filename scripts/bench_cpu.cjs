// Builds and runs the benchmark of the CPU backend's kernels (bench/cpu): one thread, every instruction set that runs here.
// usage: node scripts/bench_cpu.cjs [--rounds 5] [--seconds 0.2] [--save FILE]. Out: a table; with --save JSON too.
const { execFileSync, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { root, buildTree } = require('./native.cjs');

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '0.2' }, // of each measurement in a round
    save: { type: 'string' },
    help: { type: 'boolean' },
  },
});
if (values.help) {
  process.stdout.write('usage: bench_cpu.cjs [--rounds 5] [--seconds 0.2, of each measurement in a round] [--save FILE]\n');
  process.exit(0);
}
if (!buildTree('.cmake-bench', ['-DCHAI_ADDON=OFF', '-DCHAI_BENCH=ON', '-DWITH_CUDA=OFF'])) process.exit(1);
const loadBefore = os.loadavg();
const program = path.join(root, '.cmake-bench', 'chai_bench_cpu');
const run = spawnSync(program, [values.rounds, values.seconds], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
if (run.status !== 0) process.exit(run.status ?? 1);
const measurements = JSON.parse(run.stdout);

const sets = [...new Set(measurements.map(({ set }) => set).filter(Boolean))];
const digits = (x) => x.toLocaleString('en', { maximumSignificantDigits: 3 });
const cell = (one) => (one ? `${digits(one.median)} (${digits(one.least)}-${digits(one.greatest)})` : '');
const find = (set, what) => measurements.find((one) => one.set === set && one.what === what);
const lines = [`| one thread | ${sets.join(' | ')} |`, `| --- |${' --- |'.repeat(sets.length)}`];
for (const { what, unit } of measurements.filter((one) => one.set === sets.at(-1)))
  lines.push(`| ${what}, ${unit} | ${sets.map((set) => cell(find(set, what))).join(' | ')} |`);
process.stdout.write(`${lines.join('\n')}\nreads of memory: ${cell(find('', 'reads'))} GB/s\n\n`);

const draws = measurements.filter(({ unit }) => unit === 'draws/s');
const part = (one, at) => one.what.slice('draws of '.length).split(', ')[at];
const ways = [...new Set(draws.map((one) => part(one, 1)))];
const time = (rate) => digits(1e6 / rate);
const row = (vocabulary) => {
  const times = ways.map((way) => find('', `draws of ${vocabulary}, ${way}`));
  return `| ${Number(vocabulary).toLocaleString('en')} logits | ${times.map((one) => `${time(one.median)} (${time(one.greatest)}-${time(one.least)})`).join(' | ')} |`;
};
const rows = [...new Set(draws.map((one) => part(one, 0)))].map(row);
process.stdout.write(
  `${[`| a draw, microseconds | ${ways.join(' | ')} |`, `| --- |${' --- |'.repeat(ways.length)}`, ...rows].join('\n')}\n`,
);

if (values.save) {
  const facts = {
    date: new Date().toISOString(),
    commit: execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim(),
    cpu: os.cpus()[0].model.trim(),
    cores: os.availableParallelism(),
    loadBefore,
    loadAfter: os.loadavg(),
  };
  fs.writeFileSync(values.save, `${JSON.stringify({ ...facts, rounds: Number(values.rounds), measurements }, null, 1)}\n`);
}

// Runs all tests: the native ones, then every folder of test/ by uvu. Out: one line `N passed, N failed`; exit code 1 on any failure.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { buildTests, missingTools, present, root, runQuietly } = require('./native.cjs');

const totals = { passed: 0, failed: 0 };

function count(name, passed, failed) {
  totals.passed += passed;
  totals.failed += failed;
  process.stdout.write(`${failed ? 'FAILED' : 'ok    '} ${name}: ${passed} passed, ${failed} failed\n`);
}

/** Runs a command, shows its output when something failed, and returns it whole. */
function run(command, args, env = {}) {
  const options = { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, timeout: 15 * 60_000, env: { ...process.env, ...env } };
  const result = spawnSync(command, args, options);
  return { ok: result.status === 0, output: `${result.stdout ?? ''}${result.stderr ?? ''}`, reason: result.error?.message };
}

function nativeTests() {
  const missing = missingTools();
  if (missing || !buildTests('.cmake-tests', ['-DWITH_CUDA=OFF', '-DCHAI_KERNELS=ON', '-DCHAI_SIMT_ADDON=ON'])) {
    if (missing) process.stderr.write(`${missing}\n`);
    return count('native (build)', 0, 1);
  }
  const { ok, output } = run(path.join(root, '.cmake-tests', 'chai_tests'), []);
  const line = /(\d+) passed, (\d+) failed\s*$/.exec(output);
  if (!ok) process.stdout.write(output);
  count('native', Number(line?.[1] ?? 0), line ? Number(line[2]) : 1);
}

/** One test file in a process of its own; uvu prints `Total:` and `Passed:`. */
function file(name) {
  const args = ['--expose-gc', '--require', './test/property_seed.cjs', '--import', 'tsx', name];
  // A change is judged by the same draws as the one before it; elsewhere every run tries new ones.
  const seed = process.env.CI ? { CHAI_PROPERTY_SEED: process.env.CHAI_PROPERTY_SEED ?? '1' } : {};
  const { ok, output, reason } = run(process.execPath, args, { FORCE_COLOR: '0', NO_COLOR: '1', ...seed });
  const total = Number(/Total:\s+(\d+)/.exec(output)?.[1] ?? 0);
  const passed = Number(/Passed:\s+(\d+)/.exec(output)?.[1] ?? 0);
  const sound = ok && total > 0 && passed === total;
  if (!sound) process.stdout.write(`${output}${reason ? `${reason}\n` : ''}${total === 0 ? `${name} registered no test\n` : ''}`);
  count(name, passed, sound ? 0 : Math.max(1, total - passed));
}

/** Pages are looked at where there is a browser, and always in CI. */
function browser() {
  return process.env.CI || ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'].some(present);
}

const wanted = process.argv[2];
// What is tested is what users get: the addon and dist/, up to date.
if (!wanted && !runQuietly('npm', ['run', 'build'])) process.exit(1);
if (!wanted || wanted === 'native') nativeTests();
const files = fs
  .readdirSync(path.join(root, 'test'), { recursive: true })
  .filter((name) => name.endsWith('.test.ts') && (!wanted || name.includes(wanted)))
  .sort();
for (const name of files) {
  if (name.startsWith(`browser${path.sep}`) && !browser()) process.stdout.write(`not run: test/${name}: there is no Chromium\n`);
  else file(path.join('test', name));
}
process.stdout.write(`${totals.passed} passed, ${totals.failed} failed\n`);
process.exit(totals.failed > 0 || totals.passed === 0 ? 1 : 0);

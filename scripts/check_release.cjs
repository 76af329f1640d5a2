// The long checks before a release, part by part: the released binary with its kernels for all GPUs, the package around it, other machines, sanitizers,
// memory over many rounds, known holes in dependencies. In: optionally words, of which a part's name must hold one. Out: a line for each part, then
// `N passed, N failed`; exit code 1 on a failure. What cannot be had here is named as not run, and counts as neither.
const { execFileSync, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { present, root, runQuietly } = require('./native.cjs');

const wanted = process.argv.slice(2);
const parts = [];

function note(name, result) {
  parts.push({ name, result });
  process.stdout.write(`${result}: ${name}\n`);
}

/** Runs one part, unless others are asked for; `run` says `passed`, `failed` or why it was not run. */
function part(name, run) {
  if (wanted.length > 0 && !wanted.some((word) => name.includes(word))) return;
  process.stdout.write(`${name} ...\n`);
  note(name, run());
}

/** A command's outcome. */
function outcome(args, env = {}) {
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } });
  return status === 0 ? 'passed' : 'failed';
}

const binary = path.join(root, 'prebuilds', 'linux-x64', 'chai-llm.glibc.node');
const addon = path.join(root, 'build', 'Release', 'chai_llm.node');

/** As users get it: all kernels, checked for what it needs, what it spills and whom it serves. */
function releasedBinary() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'not run (kernels are released for x64 Linux)';
  if (!present('nvcc') && !process.env.CUDACXX) return 'not run (there is no nvcc)';
  const { CHAI_CUDA_ARCHITECTURES: _, ...all } = process.env;
  const built = spawnSync(process.execPath, ['scripts/prebuildify.cjs'], { cwd: root, stdio: 'inherit', env: all });
  return built.status === 0 ? outcome(['scripts/check_kernels.cjs', binary]) : 'failed';
}

/** The registry says what is known against the packages that users get. */
function audit() {
  const { status, stdout } = spawnSync('npm', ['audit', '--omit=dev', '--json'], {
    cwd: root,
    encoding: 'utf8',
    shell: process.platform === 'win32',
  });
  try {
    const { metadata, message } = JSON.parse(stdout);
    if (!metadata) return `not run (${message})`;
  } catch {
    return 'failed';
  }
  if (status !== 0) process.stdout.write(`${stdout}\n`);
  return status === 0 ? 'passed' : 'failed';
}

const library = (name) => execFileSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim();

/** Puts an addon built with sanitizers in the place of the ordinary one while the tests run. */
function sanitizedAddon() {
  const tree = path.join(root, '.cmake-addon-sanitize');
  const folder = path.join(tree, 'addon');
  const options = ['-DSANITIZE=ON', '-DWITH_CUDA=OFF', '-DCMAKE_BUILD_TYPE=Release', `-Daddon_folder=${folder}`];
  if (!runQuietly('cmake', ['-S', root, '-B', tree, ...options]) || !runQuietly('cmake', ['--build', tree, '--parallel'])) return 'failed';
  fs.copyFileSync(addon, `${addon}.ordinary`);
  try {
    fs.copyFileSync(path.join(folder, 'chai_llm.node'), addon);
    const env = {
      LD_PRELOAD: library('libasan.so'),
      ASAN_OPTIONS: 'detect_leaks=0',
      UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
    };
    const ends = ['logits', 'clustered', 'generation'].map((name) => `end_to_end/${name}`);
    const rest = ['lifetime/calls', 'lifetime/running', 'lifetime/environments', 'surface/misuse'];
    const failed = [...ends, ...rest].filter(
      (file) => outcome(['--expose-gc', '--import', 'tsx', `test/${file}.test.ts`], env) === 'failed',
    );
    for (const file of failed) process.stdout.write(`FAILED: test/${file}.test.ts\n`);
    return failed.length > 0 ? 'failed' : 'passed';
  } finally {
    fs.renameSync(`${addon}.ordinary`, addon);
  }
}

part('the released binary: kernels of all GPUs, symbol versions, size', releasedBinary);
const keep = parts[0]?.result === 'passed' ? ['--keep-prebuilds'] : []; // else they build one without kernels
part('the package', () => outcome(['scripts/check_package.cjs', ...keep]));
part('binaries on other machines', () => outcome(['scripts/check_platforms.cjs', ...keep]));
part('soak of 1,000 load, generate, close rounds', () => outcome(['--expose-gc', 'test/soak/rounds.mjs', '1000']));
part('the addon under sanitizers', sanitizedAddon);
part('native tests and kernels under sanitizers', () => outcome(['scripts/test_sanitize.cjs', '--kernels']));
part('npm audit of what users install', audit);

const count = (result) => parts.filter((one) => one.result === result).length;
process.stdout.write('\n');
for (const { name, result } of parts) process.stdout.write(`${result.padEnd(8)} ${name}\n`);
process.stdout.write(`${count('passed')} passed, ${count('failed')} failed\n`);
process.exit(count('failed') > 0 || count('passed') === 0 ? 1 : 0);

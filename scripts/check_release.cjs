// The long checks before a release: the addon's tests under sanitizers, and a memory soak. Out: `N passed, N failed`; exit code 1 on a failure.
const { execFileSync, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { root, runQuietly } = require('./native.cjs');

let passed = 0;
let failed = 0;
function check(name, command, args, env = {}) {
  process.stdout.write(`${name} ...\n`);
  const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } });
  if (status === 0) ++passed;
  else ++failed;
  process.stdout.write(`${status === 0 ? 'ok' : 'FAILED'}: ${name}\n`);
}

const addon = path.join(root, 'build', 'Release', 'chai_llm.node');
const tree = path.join(root, '.cmake-addon-sanitize');
const library = (name) => execFileSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim();

/** Puts an addon built with sanitizers in the place of the ordinary one while the tests run. */
function sanitizedAddon() {
  const folder = path.join(tree, 'addon');
  const built =
    runQuietly('cmake', [
      '-S',
      root,
      '-B',
      tree,
      '-DSANITIZE=ON',
      '-DWITH_CUDA=OFF',
      '-DCMAKE_BUILD_TYPE=Release',
      `-Daddon_folder=${folder}`,
    ]) && runQuietly('cmake', ['--build', tree, '--parallel']);
  if (!built) {
    ++failed;
    return;
  }
  fs.copyFileSync(addon, `${addon}.ordinary`);
  try {
    fs.copyFileSync(path.join(folder, 'chai_llm.node'), addon);
    const env = {
      LD_PRELOAD: library('libasan.so'),
      ASAN_OPTIONS: 'detect_leaks=0',
      UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
    };
    for (const file of [
      'end_to_end/logits',
      'end_to_end/clustered',
      'end_to_end/generation',
      'lifetime/calls',
      'lifetime/running',
      'lifetime/environments',
      'surface/misuse',
    ])
      check(`${file} under sanitizers`, process.execPath, ['--expose-gc', '--import', 'tsx', `test/${file}.test.ts`], env);
  } finally {
    fs.renameSync(`${addon}.ordinary`, addon);
  }
}

check('soak of 1,000 load, generate, close rounds', process.execPath, ['--expose-gc', 'test/soak/rounds.mjs', '1000']);
sanitizedAddon();
check('native tests and kernels under sanitizers', process.execPath, ['scripts/test_sanitize.cjs', '--kernels']);
check('binaries on other machines', process.execPath, ['scripts/check_platforms.cjs']);
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exit(failed > 0 ? 1 : 0);

// Runs the native build tools for the other scripts. In: a command line. Out: its status; quiet on success, its whole log on failure.
const { spawnSync } = require('node:child_process');
const path = require('node:path');

const root = path.join(__dirname, '..');

/** Runs a command without a word unless it fails; returns whether it succeeded. */
function runQuietly(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  if (result.status === 0) return true;
  process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`);
  process.stderr.write(`failed: ${command} ${args.join(' ')}\n${result.error ? `${result.error.message}\n` : ''}`);
  return false;
}

/** The tool answers to --version. */
function present(tool) {
  return spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0;
}

/** Names what a native build lacks, with the remedy, or returns undefined. */
function missingTools() {
  const missing = [];
  if (!present('cmake')) missing.push('cmake 3.22 or newer');
  if (!process.env.CXX && !present('c++') && !present('g++') && !present('clang++')) missing.push('a C++20 compiler');
  if (missing.length === 0) return undefined;
  const remedy = { linux: 'apt-get install g++ make cmake (or the like)', darwin: 'xcode-select --install && brew install cmake' };
  return `${missing.join(' and ')} not found; install it: ${remedy[process.platform] ?? 'Visual Studio Build Tools with C++ and CMake'}`;
}

/** Configures and builds one CMake tree without Node headers (tests); returns whether it succeeded. */
function buildTests(folder, definitions) {
  const args = ['-S', root, '-B', folder, '-DCHAI_ADDON=OFF', '-DCHAI_TESTS=ON', '-DCMAKE_BUILD_TYPE=Release', ...definitions];
  const jobs = String(Math.max(1, require('node:os').availableParallelism()));
  return runQuietly('cmake', args) && runQuietly('cmake', ['--build', folder, '--parallel', jobs]);
}

module.exports = { root, runQuietly, missingTools, buildTests };

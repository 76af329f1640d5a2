// Runs the native build tools for the other scripts and for `chai-llm build`. In: a command line. Out: its status; quiet on success, its whole
// log on failure.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
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

const remedies = {
  linux:
    'Debian, Ubuntu: apt-get install g++ make cmake; Fedora, RHEL, Amazon Linux: dnf install gcc-c++ make cmake; Alpine: apk add g++ make cmake linux-headers',
  darwin: 'xcode-select --install && brew install cmake',
  win32: 'Visual Studio Build Tools with "Desktop development with C++" and "C++ Clang tools for Windows"; it brings CMake along',
};

/** Names what a native build lacks, with the remedy, or returns undefined. */
function missingTools() {
  const missing = [];
  if (!present('cmake')) missing.push('cmake 3.22 or newer');
  if (process.platform !== 'win32') {
    if (!process.env.CXX && !present('c++') && !present('g++') && !present('clang++'))
      missing.push('a C++20 compiler (g++ 11 or clang 14, or newer)');
    if (!process.env.CMAKE_GENERATOR && !present('make') && !present('ninja')) missing.push('make or ninja');
  }
  if (missing.length === 0) return undefined;
  return `${missing.join(' and ')} not found; install it: ${remedies[process.platform] ?? remedies.linux}`;
}

/** Arguments of CMake that the platform asks for. */
function generator() {
  // The sources use vector extensions that MSVC lacks; Visual Studio's own clang has them.
  if (process.platform === 'win32')
    return process.env.CMAKE_GENERATOR ? [] : ['-T', 'ClangCL', '-A', process.arch === 'arm64' ? 'ARM64' : 'x64'];
  return process.env.CMAKE_GENERATOR || present('make') ? [] : ['-G', 'Ninja'];
}

/** cmake-js, a development dependency, in a clone; an installed package, which has no lib/, builds by CMake alone. */
function cmakeJs() {
  if (!fs.existsSync(path.join(root, 'lib'))) return undefined;
  try {
    return require.resolve('cmake-js/bin/cmake-js');
  } catch {
    return undefined;
  }
}

/** CMake would refuse a tree that was made for another folder, or for the other generator of which cmake-js takes one. */
function stale(tree) {
  const file = path.resolve(root, tree, 'CMakeCache.txt');
  if (!fs.existsSync(file)) return false;
  const cache = fs.readFileSync(file, 'utf8');
  const moved = !cache.includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root.replace(/\\/g, '/')}\n`);
  const ninja = cache.includes('CMAKE_GENERATOR:INTERNAL=Ninja\n');
  return moved || (process.platform !== 'win32' && !process.env.CMAKE_GENERATOR && cmakeJs() !== undefined && ninja !== present('ninja'));
}

/** Configures and builds one CMake tree; returns whether it succeeded. `jobs`: compilers at once. */
function buildTree(folder, definitions, jobs = os.availableParallelism()) {
  if (stale(folder)) fs.rmSync(path.resolve(root, folder), { recursive: true });
  const driver = process.platform === 'win32' ? undefined : cmakeJs();
  if (driver) {
    // Two steps: its `compile` would configure only once and build twice on an error.
    const values = definitions.map((definition) => definition.replace(/^-D/, '--CD'));
    const tree = ['-d', root, '-O', path.resolve(root, folder), '-p', String(Math.max(1, jobs)), ...values];
    return runQuietly(process.execPath, [driver, 'configure', ...tree]) && runQuietly(process.execPath, [driver, 'build', ...tree]);
  }
  const configure = ['-S', root, '-B', folder, '-DCMAKE_BUILD_TYPE=Release', ...generator(), ...definitions];
  const build = ['--build', folder, '--config', 'Release', '--parallel', String(Math.max(1, jobs))];
  return runQuietly('cmake', configure) && runQuietly('cmake', build);
}

/** The native tests: no Node headers, no addon. */
function buildTests(folder, definitions) {
  return buildTree(folder, ['-DCHAI_ADDON=OFF', '-DCHAI_TESTS=ON', ...definitions]);
}

module.exports = { root, runQuietly, present, missingTools, buildTree, buildTests };

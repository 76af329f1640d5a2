// Runs the released binaries where this machine is not: on an older glibc, as 64-bit Arm code under qemu-user; and compiles the engine for Windows.
// Needs a built dist/, apt-get, the npm registry. In: --keep-prebuilds for the x64 binary that is there, else one is built without GPU kernels. Out:
// `N passed, N failed`; exit code 1 naming what is wrong. What cannot be had is named as skipped.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { buildTests, present, root } = require('./native.cjs');
const { otherNode } = require('./package/user.cjs');

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-platforms-'));
const totals = { passed: 0, failed: 0 };
const generate = ['dist/cli/main.js', 'generate', 'models/starter', 'Once upon a time', '--max-tokens', '40', '--json'];

/** PREBUILDS_ONLY: node-gyp-build then leaves the clone's own build alone. */
function run(command, args, options = {}) {
  const env = { ...process.env, PREBUILDS_ONLY: '1', CHAI_CUDA_ARCHITECTURES: process.env.CHAI_CUDA_ARCHITECTURES ?? 'none' };
  return spawnSync(command, args, { cwd: root, encoding: 'utf8', env, timeout: 600_000, maxBuffer: 1 << 26, ...options });
}

function check(name, held, detail) {
  ++totals[held ? 'passed' : 'failed'];
  process.stdout.write(`${held ? 'ok    ' : 'FAILED'} ${name}\n`);
  if (!held) process.stderr.write(`${detail}\n`);
}

const skip = (name, why) => process.stdout.write(`skipped: ${name}: ${why}\n`);
const textOf = ({ status, stdout }) => (status === 0 ? JSON.parse(stdout).text : undefined);

/** Unpacks the C and C++ libraries of an older Debian; returns their folder, or undefined where they cannot be had. */
function olderLibraries(release) {
  const at = path.join(folder, release);
  for (const part of ['lists/partial', 'cache/archives/partial', 'root']) fs.mkdirSync(path.join(at, part), { recursive: true });
  fs.writeFileSync(path.join(at, 'sources'), `deb [check-valid-until=no] http://deb.debian.org/debian ${release} main\n`);
  const places = { 'Dir::Etc::sourcelist': 'sources', 'Dir::State::lists': 'lists', 'Dir::Cache': 'cache' };
  const options = Object.entries(places).flatMap(([key, name]) => ['-o', `${key}=${path.join(at, name)}`]);
  const apt = (...args) => run('apt-get', ['-qq', ...options, '-o', 'Dir::Etc::sourceparts=-', ...args], { cwd: at }).status === 0;
  if (!apt('update') || !apt('download', ...['libc6', 'libstdc++6', 'libgcc-s1'].map((name) => `${name}/${release}`))) return undefined;
  for (const name of fs.readdirSync(at).filter((file) => file.endsWith('.deb')))
    run('dpkg-deb', ['-x', path.join(at, name), path.join(at, 'root')]);
  return path.join(at, 'root');
}

function olderGlibc(expected) {
  const name = 'linux-x64 on the glibc of Debian 11';
  const node = otherNode(path.join(folder, 'node'), 20);
  const libraries = node && olderLibraries('bullseye');
  if (!libraries) return skip(name, 'its packages cannot be had here');
  const places = ['lib', 'usr/lib'].map((part) => path.join(libraries, part, 'x86_64-linux-gnu'));
  const loader = fs.readdirSync(places[0]).find((file) => /^ld-[\d.]+\.so$/.test(file));
  const within = [path.join(places[0], loader), '--library-path', places.join(':'), node];
  const version = run(within[0], [...within.slice(1), '-p', 'process.report.getReport().header.glibcVersionRuntime']);
  check(`${name} (${version.stdout.trim()}) is older than this machine's`, /^2\.31/.test(version.stdout), version.stderr);
  const result = run(within[0], [...within.slice(1), ...generate]);
  check(`${name} gives the same text`, textOf(result) === expected, `${result.stdout}${result.stderr}`);
}

function arm(expected) {
  const name = 'linux-arm64 under qemu-user';
  if (!present('qemu-aarch64') || !present('aarch64-linux-gnu-g++')) return skip(name, 'apt-get install g++-aarch64-linux-gnu qemu-user');
  const node = otherNode(path.join(folder, 'node-arm64'), 20, 'linux-arm64');
  if (!node) return skip(name, 'Node.js for it cannot be had from the npm registry here');
  const built = run(process.execPath, ['scripts/prebuildify.cjs', 'linux-arm64']);
  check(`${name}: built; symbol versions, exports, stripped, size`, built.status === 0, `${built.stdout}${built.stderr}`);
  const result = run('qemu-aarch64', ['-L', '/usr/aarch64-linux-gnu', node, ...generate]);
  check(
    `${name}: Node ${run('qemu-aarch64', ['-L', '/usr/aarch64-linux-gnu', node, '-v']).stdout.trim()} gives the same text`,
    textOf(result) === expected,
    `${result.stdout}${result.stderr}`,
  );
}

function windows() {
  const name = 'the engine and its tests compile for Windows';
  if (!present('x86_64-w64-mingw32-g++-posix')) return skip(name, 'apt-get install g++-mingw-w64-x86-64-posix');
  const toolchain = path.join(root, 'cmake', 'x86_64-w64-mingw32.cmake');
  check(name, buildTests('.cmake-windows', [`-DCMAKE_TOOLCHAIN_FILE=${toolchain}`, '-DWITH_CUDA=OFF', '-DCHAI_KERNELS=OFF']), 'see above');
}

try {
  if (!process.argv.includes('--keep-prebuilds')) run(process.execPath, ['scripts/prebuildify.cjs']);
  const own = run(process.execPath, generate);
  check('linux-x64 here', textOf(own)?.length > 0, `${own.stdout}${own.stderr}`);
  olderGlibc(textOf(own));
  arm(textOf(own));
  windows();
} finally {
  fs.rmSync(folder, { recursive: true });
}
process.stdout.write(`${totals.passed} passed, ${totals.failed} failed\n`);
process.exit(totals.failed > 0 ? 1 : 0);

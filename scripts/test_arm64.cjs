// Cross-compiles the engine and its native tests for 64-bit Arm and runs them under qemu-user. In: an optional test name. Out: `N passed, N failed`.
// Shows that the NEON kernels compute what the others do. Not what only a real Arm processor shows: its speed and its weaker memory order.
const { spawnSync } = require('node:child_process');
const path = require('node:path');
const { buildTests, present, root } = require('./native.cjs');

const sysroot = '/usr/aarch64-linux-gnu';
const missing = ['cmake', 'aarch64-linux-gnu-g++', 'qemu-aarch64'].filter((tool) => !present(tool));
if (missing.length > 0) {
  process.stderr.write(`${missing.join(', ')} not found; install: apt-get install cmake make g++-aarch64-linux-gnu qemu-user\n`);
  process.exit(1);
}
const folder = '.cmake-arm64';
const toolchain = path.join(root, 'cmake', 'aarch64-linux-gnu.cmake');
if (!buildTests(folder, [`-DCMAKE_TOOLCHAIN_FILE=${toolchain}`, '-DWITH_CUDA=OFF', '-DCHAI_KERNELS=OFF', '-DWARNINGS_AS_ERRORS=ON']))
  process.exit(1);
const tests = path.join(root, folder, 'chai_tests');
const result = spawnSync('qemu-aarch64', ['-L', sysroot, tests, ...process.argv.slice(2)], { stdio: 'inherit' });
process.exit(result.status ?? 1);

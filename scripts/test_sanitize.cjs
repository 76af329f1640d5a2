// Builds the native tests with address and undefined-behaviour sanitizers and runs them; with --kernels the CUDA kernels on the host too, which
// takes several minutes more. In: an optional test name. Out: `N passed, N failed`.
const { spawnSync } = require('node:child_process');
const path = require('node:path');
const { buildTests, root } = require('./native.cjs');

const given = process.argv.slice(2).filter((argument) => argument !== '--kernels');
const kernels = process.argv.includes('--kernels') ? 'ON' : 'OFF';
if (!buildTests('.cmake-sanitize', ['-DSANITIZE=ON', '-DWITH_CUDA=OFF', `-DCHAI_KERNELS=${kernels}`])) process.exit(1);
const env = { ...process.env, ASAN_OPTIONS: 'detect_leaks=1:detect_stack_use_after_return=0', UBSAN_OPTIONS: 'print_stacktrace=1' };
const result = spawnSync(path.join(root, '.cmake-sanitize', 'chai_tests'), given, { stdio: 'inherit', env });
process.exit(result.status ?? 1);

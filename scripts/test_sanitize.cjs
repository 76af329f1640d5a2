// Builds the native tests with address and undefined-behaviour sanitizers and runs them. Out: `N passed, N failed`.
const { spawnSync } = require('node:child_process');
const path = require('node:path');
const { buildTests, root } = require('./native.cjs');

if (!buildTests('.cmake-sanitize', ['-DSANITIZE=ON'])) process.exit(1);
const env = { ...process.env, ASAN_OPTIONS: 'detect_leaks=1:detect_stack_use_after_return=0', UBSAN_OPTIONS: 'print_stacktrace=1' };
const result = spawnSync(path.join(root, '.cmake-sanitize', 'chai_tests'), process.argv.slice(2), { stdio: 'inherit', env });
process.exit(result.status ?? 1);

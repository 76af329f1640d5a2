// Lints what is tracked: biome for TypeScript and JavaScript, clang-format for C++ (when it is there, or always in CI). Exit code 1 on a find.
const { execFileSync, spawnSync } = require('node:child_process');
const { root } = require('./native.cjs');

const biome = spawnSync(process.execPath, [require.resolve('@biomejs/biome/bin/biome'), 'check', '.'], { cwd: root, stdio: 'inherit' });
const sources = execFileSync('git', ['ls-files', '*.cpp', '*.h', '*.cu', '*.cuh'], { cwd: root, encoding: 'utf8' })
  .split('\n')
  .filter(Boolean);
const format = spawnSync('clang-format', ['--dry-run', '--Werror', ...sources], { cwd: root, stdio: 'inherit' });
if (format.error && !process.env.CI) process.stderr.write('clang-format is not installed: C++ formatting not checked\n');
process.exit(biome.status || (format.error ? (process.env.CI ? 1 : 0) : format.status) || 0);

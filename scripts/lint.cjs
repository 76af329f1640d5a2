// Lints what is tracked: biome for TypeScript and JavaScript, clang-format for C++ (when it is there, or always in CI), and that only native/platform
// knows the operating system. Exit code 1 on a find.
const { execFileSync, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('./native.cjs');

const biome = spawnSync(process.execPath, [require.resolve('@biomejs/biome/bin/biome'), 'check', '.'], { cwd: root, stdio: 'inherit' });
const sources = execFileSync('git', ['ls-files', '*.cpp', '*.h', '*.cu', '*.cuh'], { cwd: root, encoding: 'utf8' })
  .split('\n')
  .filter(Boolean);
const format = spawnSync('clang-format', ['--dry-run', '--Werror', ...sources], { cwd: root, stdio: 'inherit' });
if (format.error && !process.env.CI) process.stderr.write('clang-format is not installed: C++ formatting not checked\n');
const system = /\b(_WIN32|__APPLE__|__linux__)\b|#include <(sys\/|(unistd|fcntl|pthread|sched|dlfcn|windows)\.h)/;
const engine = sources.filter((name) => /^(native|cuda)\//.test(name) && !name.startsWith('native/platform/'));
const strays = engine.filter((name) => fs.existsSync(path.join(root, name)) && system.test(fs.readFileSync(path.join(root, name), 'utf8')));
for (const name of strays) process.stderr.write(`${name} asks which system it is on: that belongs into native/platform\n`);
process.exit((strays.length > 0 ? 1 : 0) || biome.status || (format.error ? (process.env.CI ? 1 : 0) : format.status) || 0);

// Proves what `npm pack` would publish: no install script, the entry points, no models or tests. Exit code 1 naming what is wrong.
const { execFileSync } = require('node:child_process');
const { root } = require('./native.cjs');
const manifest = require('../package.json');

const problems = [];
for (const script of ['preinstall', 'install', 'postinstall'])
  if (manifest.scripts[script]) problems.push(`package.json has a script "${script}"`);
if (manifest.gypfile !== false) problems.push('package.json must say "gypfile": false, or npm builds binding.gyp at install');
const [pack] = JSON.parse(
  execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  }),
);
const paths = new Set(pack.files.map((file) => file.path));
for (const needed of [
  'dist/index.js',
  'dist/index.mjs',
  'dist/index.d.ts',
  'dist/index.d.mts',
  'dist/cli/main.js',
  'dist/tokenizer_worker.js',
  'CMakeLists.txt',
  'native/engine.h',
  'LICENSE',
  'README.md',
])
  if (!paths.has(needed)) problems.push(`the package lacks ${needed}`);
for (const path of paths) if (/^(models|test|build|\.)/.test(path)) problems.push(`the package holds ${path}`);
for (const problem of problems) process.stderr.write(`${problem}\n`);
process.exit(problems.length > 0 ? 1 : 0);

// Packs what npm would publish and looks into it. In: the repository, built. Out: the path of the tarball, its faults, its sizes by kind.
const { execFileSync } = require('node:child_process');
const path = require('node:path');
const { root } = require('../native.cjs');

const needed = [
  'dist/index.js',
  'dist/index.mjs',
  'dist/index.d.ts',
  'dist/index.d.mts',
  'dist/cli/main.js',
  'dist/cli/build.js',
  'dist/tokenizer_worker.js',
  // what `chai-llm build` needs
  'CMakeLists.txt',
  'scripts/build_native.cjs',
  'scripts/native.cjs',
  'native/engine.h',
  'native/addon/addon.cpp',
  'native/cpu/kernels_neon.cpp',
  'LICENSE',
  'README.md',
  'THIRD_PARTY_LICENSES.md',
];
const unwanted = /^(models|test|build|bench|examples|lib)\/|^\.|\.(safetensors|o|obj|tgz|tsbuildinfo)$/;
const most = 5e6; // packed bytes of what is not a binary, and of each platform's binary
const kinds = [
  ['binary', /^prebuilds\//],
  ['JavaScript and types', /^dist\//],
  ['CUDA sources for `chai-llm build`', /^cuda\//],
  ['C++ sources for `chai-llm build`', /^(native|cmake|scripts)\/|^CMakeLists\.txt$/],
  ['guides, API reference, licences', /./],
];

/** Makes the tarball in `folder`. */
function pack(folder) {
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', folder];
  const [made] = JSON.parse(execFileSync('npm', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
  return { file: path.join(folder, made.filename), packed: made.size, files: made.files.map(({ path: name, size }) => ({ name, size })) };
}

function contentFaults({ packed, files }, platform) {
  const manifest = require('../../package.json');
  const faults = [];
  for (const script of ['preinstall', 'install', 'postinstall'])
    if (manifest.scripts[script]) faults.push(`package.json has a script "${script}"`);
  if (manifest.gypfile !== false) faults.push('package.json must say "gypfile": false, or npm builds binding.gyp at install');
  const names = new Set(files.map(({ name }) => name));
  for (const name of needed) if (!names.has(name)) faults.push(`the package lacks ${name}`);
  for (const name of names) if (unwanted.test(name)) faults.push(`the package holds ${name}`);
  const binaries = files.filter(({ name }) => name.endsWith('.node'));
  if (!binaries.some(({ name }) => name.startsWith(`prebuilds/${platform}/`))) faults.push(`the package lacks prebuilds/${platform}`);
  for (const { name, size } of binaries) if (size > most) faults.push(`${name} has ${size} bytes, more than ${most}`);
  if (packed > most * Math.max(1, binaries.length)) faults.push(`the tarball has ${packed} bytes, more than ${most} a platform`);
  return faults;
}

/** Lines «bytes  kind»: what each part of the unpacked package is. */
function sizes({ packed, files }) {
  const lines = files.filter(({ name }) => name.endsWith('.node')).map(({ name, size }) => [size, name]);
  for (const [kind, pattern] of kinds.slice(1)) {
    const of = files.filter(({ name }) => kinds.find(([, test]) => test.test(name))[1] === pattern);
    lines.push([of.reduce((sum, { size }) => sum + size, 0), `${kind}, ${of.length} files`]);
  }
  lines.push([files.reduce((sum, { size }) => sum + size, 0), 'unpacked'], [packed, 'packed']);
  return lines.map(([bytes, what]) => `${String(bytes).padStart(9)}  ${what}`).join('\n');
}

module.exports = { most, pack, contentFaults, sizes };

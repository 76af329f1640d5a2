#!/usr/bin/env node
// The one place that builds the addon, by plain CMake and offline: npm, node-gyp (binding.gyp), prebuildify and `chai-llm build` all end here.
// In: CMake definitions (-DNAME=VALUE). Out: build/Release/chai_llm.node.
const fs = require('node:fs');
const path = require('node:path');
const { buildTree, missingTools, root } = require('./native.cjs');

/**
 * Builds the addon; returns undefined, or why it could not be built.
 * `folder`: where the .node file goes; `tree`: CMake's own folder; `definitions`: -DNAME=VALUE; `jobs`: compilers at once.
 */
function buildAddon({ folder = path.join(root, 'build', 'Release'), tree = path.join(root, '.cmake'), definitions = [], jobs } = {}) {
  const missing = missingTools();
  if (missing) return missing;
  try {
    fs.mkdirSync(folder, { recursive: true });
    fs.mkdirSync(tree, { recursive: true });
    fs.accessSync(folder, fs.constants.W_OK);
  } catch (error) {
    return `${error.message}; run it as a user who may write there`;
  }
  const headers = [require('node-addon-api').include_dir, require('node-api-headers').include_dir].map((at) => path.resolve(at));
  const all = [
    `-DNODE_API_INCLUDE=${headers.join(';')}`,
    `-DNODE_API_DEF=${require('node-api-headers').def_paths.node_api_def}`,
    `-Daddon_folder=${folder}`,
    ...definitions,
  ];
  return buildTree(tree, all, jobs) ? undefined : 'the compiler or CMake failed, see above';
}

/** Takes away what a build leaves beside the addon. */
function removeTree(tree) {
  fs.rmSync(tree, { recursive: true, force: true });
}

module.exports = { buildAddon, removeTree };

/**
 * Machine code for the GPUs in use, which later ones of its generation run too (8.6's on 8.7, 10.0's on 10.3: CUDA C++ Programming Guide, "Binary
 * Compatibility"). PTX, compiled by the driver once, serves generations to come: of 9.0, since kernels for 8.0 do not start before the one ahead of them
 * has ended. CHAI_CUDA_ARCHITECTURES names others, or `none`. Only x64 Linux has released kernels.
 */
function releaseKernels() {
  const wanted = process.env.CHAI_CUDA_ARCHITECTURES ?? '80-real;86-real;89-real;90a-real;100-real;120-real;90-virtual';
  if (wanted === 'none' || process.env.CHAI_TOOLCHAIN || process.platform !== 'linux' || process.arch !== 'x64') return ['-DWITH_CUDA=OFF'];
  return ['-DWITH_CUDA=ON', `-DCHAI_CUDA_ARCHITECTURES=${wanted}`]; // no nvcc is an error, not a release that lacks its kernels
}

if (require.main === module) {
  // prebuildify runs this in a folder of its own and says so by these variables.
  const release = process.env.PREBUILD_ARCH
    ? { folder: path.resolve('build', 'Release'), tree: path.resolve('tree'), definitions: ['-DPORTABLE=ON', ...releaseKernels()] }
    : {};
  const given = process.argv.slice(2).filter((argument) => argument.startsWith('-D'));
  const strict = process.env.CI ? ['-DWARNINGS_AS_ERRORS=ON'] : [];
  const cross = process.env.CHAI_TOOLCHAIN ? [`-DCMAKE_TOOLCHAIN_FILE=${process.env.CHAI_TOOLCHAIN}`, '-DWITH_CUDA=OFF'] : [];
  const problem = buildAddon({ ...release, definitions: [...(release.definitions ?? []), ...strict, ...cross, ...given] });
  if (problem) process.stderr.write(`chai-llm: cannot build the native addon: ${problem}\n`);
  process.exit(problem ? 1 : 0);
}

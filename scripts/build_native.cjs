#!/usr/bin/env node
// The one place that builds the addon: npm, node-gyp (binding.gyp) and prebuildify all end here. Out: build/Release/chai_llm.node.
const os = require('node:os');
const path = require('node:path');
const { missingTools, root, runQuietly } = require('./native.cjs');

const missing = missingTools();
if (missing) {
  process.stderr.write(`chai-llm: cannot build the native addon: ${missing}\n`);
  process.exit(1);
}
const cmakeJs = require.resolve('cmake-js/bin/cmake-js');
const tree = ['-d', root, '-O', path.join(root, '.cmake')];
// `compile` would ignore changed definitions and build twice on failure: configure, then build.
const definitions = process.env.CI ? ['--CDWARNINGS_AS_ERRORS=ON'] : [];
const built =
  runQuietly(process.execPath, [cmakeJs, 'configure', ...tree, ...definitions]) &&
  runQuietly(process.execPath, [cmakeJs, 'build', ...tree, '--parallel', String(os.availableParallelism())]);
process.exit(built ? 0 : 1);

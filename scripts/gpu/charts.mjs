// A GPU's measured results as charts and tables. In: the JSON of merge.sh (bench/results/gpu-NAME.json), or nothing: then all is «not measured yet».
// Out: SVG files, and the Markdown between the marks `<!-- gpu:begin -->` and `<!-- gpu:end -->` of a document; headline rows for another.
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { figuresOf } from './figures.mjs';
import { readResults } from './results.mjs';
import { headlinesOf, markdownOf } from './tables.mjs';

const usage = `usage: node scripts/gpu/charts.mjs [RESULT.json] [--document docs/performance.md] [--images docs/gpu] [--readme FILE]
  Without --readme the headline rows are printed.`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    document: { type: 'string', default: 'docs/performance.md' },
    images: { type: 'string', default: 'docs/gpu' },
    readme: { type: 'string' },
    help: { type: 'boolean' },
  },
});
if (values.help || positionals.length > 1) {
  console.log(usage);
  process.exit(values.help ? 0 : 2);
}

/** Puts `text` between the marks of a document. */
function replaceMarked(file, text) {
  const old = fs.readFileSync(file, 'utf8');
  const [begin, end] = ['<!-- gpu:begin -->', '<!-- gpu:end -->'];
  const [from, to] = [old.indexOf(begin), old.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${file} lacks the marks ${begin} and ${end}`);
  fs.writeFileSync(file, `${old.slice(0, from + begin.length)}\n${text.trim()}\n${old.slice(to)}`);
  console.log(`${file}: written`);
}

const results = readResults(positionals[0]);
const figures = figuresOf(results).filter(({ svg }) => svg);
if (figures.length > 0) fs.mkdirSync(values.images, { recursive: true });
for (const { name, svg } of figures) fs.writeFileSync(path.join(values.images, `${name}.svg`), svg);
const folder = path.relative(path.dirname(values.document), values.images).split(path.sep).join('/');
const pictures = figures.map(({ name, about }) => `![${about}](${folder}/${name}.svg)`);
replaceMarked(values.document, markdownOf(results, pictures));
console.log(figures.length > 0 ? `${figures.length} charts in ${values.images}` : 'nothing was measured: no charts');
if (values.readme) replaceMarked(values.readme, headlinesOf(results));
else console.log(`\n${headlinesOf(results)}`);

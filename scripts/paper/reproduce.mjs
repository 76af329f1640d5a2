// The accuracy tables of the CHAI paper for someone who has the weights. In: a model directory, its evaluation sets, text for the static
// memberships. Out: a Markdown table of dense, CHAI and CHAI-static beside the published figures, and the same as JSON.
import fs from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { calibrate, evaluate, loadModel, readHeadPlan } from '../../dist/index.js';

const usage = `usage: node scripts/paper/reproduce.mjs MODEL --data DIR --text FILE --out DIR [options]
  MODEL               directory with the weights: LLaMA-7B, LLaMA-33B, OPT-66B; any other multi-head model runs too, with nothing beside it
  --data DIR          piqa, hellaswag, arc_challenge, arc_easy, boolq as .jsonl (.gz, .xz); those there are run
  --text FILE         (repeatable) text whose samples say which heads belong together (the paper: 1024 samples of C4); needed for CHAI-static
  --out DIR           where plan, state and results lie; the same command goes on where a calibration stopped
  --plan FILE         cluster counts (default: the published ones for the model's shape; where none are, the elbows of --text)
  --clustering NAME   kmeans, as the paper says (default), or average-linkage-cosine, as the authors' code does
  --limit N           items of each set (default: all)      --samples N    (default 1024)
  --device, --threads, --cache-type`;

const folder = path.dirname(fileURLToPath(import.meta.url));
const sets = {
  piqa: 'accuracy',
  hellaswag: 'accuracyPerCharacter',
  arc_challenge: 'accuracyPerCharacter',
  arc_easy: 'accuracy',
  boolq: 'accuracy',
};
const titles = { piqa: 'PIQA', hellaswag: 'HellaSwag (norm)', arc_challenge: 'ARC-C (norm)', arc_easy: 'ARC-E', boolq: 'BoolQ' };

function readArguments() {
  const text = { type: 'string' };
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      ...{
        data: text,
        out: text,
        plan: text,
        clustering: text,
        limit: text,
        samples: text,
        device: text,
        threads: text,
        'cache-type': text,
      },
      text: { type: 'string', multiple: true, default: [] },
      help: { type: 'boolean' },
    },
  });
  if (values.help || positionals.length !== 1 || !values.data || !values.out) {
    process.stdout.write(`${usage}\n`);
    process.exit(values.help ? 0 : 2);
  }
  return { ...values, model: positionals[0] };
}

/** The published figures for a model of this shape; undefined for others. */
async function publishedFor({ layers, heads }) {
  const { source, models } = JSON.parse(await fs.readFile(path.join(folder, 'published.json'), 'utf8'));
  const found = models.find((model) => model.layers === layers && model.heads === heads);
  return found && { ...found, source };
}

/** Counts: given, published, or found from the text. Members for CHAI-static: always from the text. */
async function findPlan(model, flags, published) {
  const file = flags.plan ?? (published?.plans[0] && path.join(folder, 'plans', `${published.plans[0]}.json`));
  const plan = file && { ...(await readHeadPlan(file)), clustering: flags.clustering ?? 'kmeans' };
  if (flags.text.length === 0) {
    if (!plan) throw new Error('no cluster counts are published for this model: give --text, or --plan');
    return { counts: file, chai: plan };
  }
  const clusters = plan?.layers.map((layer) => layer.clusters);
  let shown = '';
  const onProgress = ({ phase, done, total }) => {
    const now = `${phase} ${total ? Math.floor((100 * done) / total) : 0} %`;
    if (now !== shown) process.stderr.write(`\r${now}   `);
    shown = now;
  };
  const made = await calibrate(model, {
    ...{ text: flags.text, clusters, clustering: flags.clustering ?? 'kmeans', samples: Number(flags.samples ?? 1024), onProgress },
    ...{ stateFile: path.join(flags.out, 'calibration.state'), resume: true },
  });
  process.stderr.write('\n');
  await fs.writeFile(path.join(flags.out, 'head-plan.json'), `${JSON.stringify(made.plan, null, 1)}\n`);
  return { counts: file ?? `the elbows of ${flags.text.map((name) => path.basename(name)).join(', ')}`, chai: made.plan, hasStatic: true };
}

const signed = (value, digits = 1) => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(digits)}`;
const row = (cells) => `| ${cells.join(' | ')} |`;

function markdownOf({ tasks }, published, saved) {
  const mine = tasks.map(({ task, results, items, chance = 0, majority = 0 }) => {
    const figures = results.map((result) => result.figures.find(({ name }) => name === sets[task]));
    const noSignal = figures[0].value - Math.max(chance, majority) <= 2 * figures[0].standardError;
    return { task, figures, items, noSignal };
  });
  const head = ['', ...mine.map(({ task, noSignal }) => `${titles[task]}${noSignal ? ' (no signal)' : ''}`)];
  const lines = [row(head), row(head.map(() => '---')), row(['items', ...mine.map(({ items }) => items)])];
  const names = tasks[0].results.map(({ attention }) => attention);
  for (const [i, name] of names.entries()) {
    const cells = mine.map(({ figures }) => {
      const { value, standardError, difference } = figures[i];
      return i === 0
        ? `${(value * 100).toFixed(1)} ± ${(standardError * 100).toFixed(1)}`
        : `${signed(difference.value * 100)} ± ${(difference.standardError * 100).toFixed(1)}`;
    });
    lines.push(row([i === 0 ? 'dense, %' : `${name}, points`, ...cells]));
    const theirs = published && (i === 0 ? published.accuracy : published[name]);
    if (theirs)
      lines.push(row([`published ${name}`, ...mine.map(({ task }) => (i === 0 ? theirs[task].toFixed(1) : signed(theirs[task])))]));
  }
  lines.push(
    '',
    `K/V cache saved: ${(saved * 100).toFixed(1)} %. Differences are to dense on the same items, with paired standard errors.`,
  );
  return `${lines.join('\n')}\n`;
}

async function main() {
  const flags = readArguments();
  await fs.mkdir(flags.out, { recursive: true });
  const load = { device: flags.device ?? 'auto', threads: Number(flags.threads ?? 0), cacheType: flags['cache-type'] ?? 'auto' };
  const model = await loadModel(flags.model, { ...load, attention: 'dense' });
  try {
    const published = await publishedFor(model.config);
    const { counts, chai, hasStatic } = await findPlan(model, flags, published);
    const files = await fs.readdir(flags.data);
    const tasks = Object.keys(sets).flatMap((task) => {
      const file = files.find((name) => name.startsWith(`${task}.jsonl`));
      return file ? [{ task, file: path.join(flags.data, file) }] : [];
    });
    if (tasks.length === 0) throw new Error(`${flags.data} holds none of ${Object.keys(sets).join(', ')} as .jsonl`);
    const compare = [
      { attention: 'dense', name: 'dense' },
      { attention: { ...chai, method: 'chai' }, name: 'chai' },
      ...(hasStatic ? [{ attention: { ...chai, method: 'chai-static' }, name: 'chai-static' }] : []),
    ];
    const result = await evaluate(model, { tasks, compare, limit: flags.limit && Number(flags.limit) });
    const clusters = chai.layers.map((layer) => layer.clusters);
    const saved = (1 - clusters.reduce((sum, k) => sum + k, 0) / (clusters.length * model.config.heads)) / 2;
    const markdown = markdownOf(result, published, saved);
    await fs.writeFile(
      path.join(flags.out, 'result.json'),
      `${JSON.stringify({ counts: path.basename(counts), published, ...result }, null, 1)}\n`,
    );
    await fs.writeFile(path.join(flags.out, 'tables.md'), markdown);
    process.stdout.write(markdown);
  } finally {
    await model.close();
  }
}

main().catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});

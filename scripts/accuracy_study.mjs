// The accuracy study: a model dense, clustered in many ways, and with controls, on held-out text and evaluation sets. In: a model, head plans
// (one a K/V budget), data files. Out: one JSON with every figure, Markdown tables, a chart. Cells that are done are kept and skipped.
import crypto from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { evaluate, loadModel, readHeadPlan } from '../dist/index.js';
import { chooseDropped, dropHeads, headImportance } from './accuracy_study/drop_heads.mjs';
import { templated, wholeText } from './accuracy_study/excerpts.mjs';
import { chartOf, markdownOf, resultFrom, resultOf, textOf } from './accuracy_study/report.mjs';
import { countsOf, variantsOf } from './accuracy_study/variants.mjs';

const usage = `usage: node scripts/accuracy_study.mjs --model DIR --plan FILE... --held-out FILE --work DIR [options]
  --plan FILE          head plan of one budget (repeatable); its file name is the budget's name. With static members: more variants
  --clusters LIST      one more budget: clusters of each layer, or one number for all (repeatable); without static members
  --held-out FILE      text that the model has not seen: the measure of budgets
  --wikitext FILE      WikiText-2 (plain, .gz, .xz)
  --eval DIR           folder with blimp, lambada, arc_easy, arc_challenge, piqa, hellaswag, boolq as .jsonl(.gz|.xz); those there are run
  --template TEXT      one more set: held-out text in pieces, each behind this text; clusters found in it, after its first token, behind it
  --calibration FILE   other text, for the choice of heads to drop (default: none is dropped by need)
  --work DIR           where finished cells, head importance and models without heads lie
  --out FILE           the result as JSON (default: bench/results/accuracy-NAME.json, NAME the model directory's)
  --markdown FILE, --chart FILE    tables, and an SVG of perplexity against K/V bytes
  --limit N            items of each evaluation set (default 1000; 0: all)      --blimp-limit N     (default 6700)
  --windows N          windows of each text (default 200; 0: all)               --window, --stride  tokens
  --warmups 3,5,8,16 --starts 0,1,8,32 --seeds 1,2    what is swept            --importance-windows N   (default 32)
  --only 'REGEX [on REGEX]'   variants by name, of sets by name (repeatable)    --minutes M         stop after so long
  --device, --threads, --cache-type, --seed N`;

const { values: flags } = parseArgs({
  options: {
    ...Object.fromEntries(['plan', 'clusters', 'only'].map((name) => [name, { type: 'string', multiple: true, default: [] }])),
    ...Object.fromEntries(
      [
        'model',
        'held-out',
        'wikitext',
        'eval',
        'calibration',
        'work',
        'out',
        'markdown',
        'chart',
        'window',
        'stride',
        'template',
        'device',
      ].map((name) => [name, { type: 'string' }]),
    ),
    ...Object.fromEntries(
      Object.entries({
        limit: '1000',
        'blimp-limit': '6700',
        windows: '200',
        warmups: '3,5,8,16',
        starts: '0,1,8,32',
        seeds: '1,2',
        minutes: '1e9',
      })
        .concat(Object.entries({ 'importance-windows': '32', seed: '0', threads: '0', 'cache-type': 'auto' }))
        .map(([name, value]) => [name, { type: 'string', default: value }]),
    ),
    help: { type: 'boolean' },
  },
});
if (flags.only.length === 0) flags.only.push('');
if (flags.help || !flags.model || !flags['held-out'] || !flags.work || flags.plan.length + flags.clusters.length === 0) {
  process.stdout.write(`${usage}\n`);
  process.exit(flags.help ? 0 : 2);
}

const started = performance.now();
const secondsLeft = () => Number(flags.minutes) * 60 - (performance.now() - started) / 1000;
const say = (text) => process.stderr.write(`${((performance.now() - started) / 60000).toFixed(1)} min  ${text}\n`);
const numbers = (list) => list.split(',').map(Number);
const load = { device: flags.device ?? 'auto', threads: Number(flags.threads), cacheType: flags['cache-type'] };
const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex');

/** Tasks by what they tell: `tier` 0 first. */
async function findTasks() {
  const windows = {
    limit: Number(flags.windows) || undefined,
    window: flags.window && Number(flags.window),
    stride: flags.stride && Number(flags.stride),
  };
  const text = (name, task, file, tier) => ({
    name,
    task,
    file,
    tier,
    options: { ...windows, ...(task === 'agreement' && { stride: undefined }) },
  });
  const tasks = [text('held-out', 'perplexity', flags['held-out'], 0), text('agreement', 'agreement', flags['held-out'], 1)];
  if (flags.template) tasks.push(text('templated', 'perplexity', templatedPath(), 2));
  if (flags.wikitext) tasks.push(text('wikitext2', 'perplexity', flags.wikitext, 1));
  const files = flags.eval ? await fs.readdir(flags.eval) : [];
  for (const [task, tier] of Object.entries({ blimp: 1, lambada: 2, arc_easy: 3, hellaswag: 3, piqa: 3, arc_challenge: 3, boolq: 3 })) {
    const file = files.find((name) => name.startsWith(`${task}.jsonl`));
    const limit = Number(task === 'blimp' ? flags['blimp-limit'] : flags.limit) || undefined;
    if (file) tasks.push({ name: task, task, file: path.join(flags.eval, file), tier, options: { limit } });
  }
  return tasks;
}

async function readPlans({ layers, heads }) {
  const plans = [];
  for (const file of flags.plan) plans.push([path.basename(file, '.json'), await readHeadPlan(file)]);
  for (const list of flags.clusters) {
    const counts = list.includes(',') ? numbers(list) : new Array(layers).fill(Number(list));
    plans.push([
      `k ${list}`,
      { format: 'chai-llm/head-plan@1', method: 'chai', layers: counts.map((clusters) => ({ clusters: Math.min(clusters, heads) })) },
    ]);
  }
  return plans;
}

/** Adds plan and model directory to the variants that leave heads out; drops those that cannot be made. */
async function makeDropped(variants, plans, config, weights, signal) {
  const made = [];
  let importance;
  for (const variant of variants) {
    if (variant.plan) {
      made.push(variant);
      continue;
    }
    if (variant.family === 'drop' && !flags.calibration) continue;
    if (variant.family === 'drop')
      importance ??= await headImportance(flags.model, flags.calibration, {
        ...{ ...config, load, signal, windows: Number(flags['importance-windows']) },
        cache: path.join(flags.work, `head-importance-${importancePrint(weights)}.json`),
        onHead: (head) => say(`without head ${head}`),
      });
    const counts = countsOf(plans.get(variant.budget));
    const dropped = chooseDropped(counts, config.heads, variant.family === 'drop' ? { importance } : { seed: 1 });
    const directory = path.join(flags.work, `model-${sha256(variant.name).slice(0, 8)}`);
    made.push({ ...variant, directory, dropped, plan: await dropHeads(flags.model, directory, { ...config, dropped }) });
  }
  return made;
}

const importancePrint = (weights) =>
  sha256(JSON.stringify([weights, path.basename(flags.calibration), flags['importance-windows']])).slice(0, 8);

/** What --only names; of the templated set only what asks which tokens tell the clusters. */
function wanted(variant, task) {
  if (task.name === 'templated' && !['CHAI', 'CHAI-static', 'start', 'warm-up'].includes(variant.family)) return false;
  const matches = (pattern, name) => new RegExp(pattern ?? '').test(name);
  return flags.only.some((pair) => {
    const [variants, sets] = pair.split(/ on (?=[^ ]+$)/);
    return matches(variants, variant.name) && matches(sets, task.name);
  });
}

const templatedPath = () => path.join(flags.work, `templated-${sha256(flags.template).slice(0, 8)}.jsonl`);

/** Tokens of the template; the set is written into the work folder. */
async function writeTemplated(model) {
  const pieces = templated(await wholeText(flags['held-out']), flags.template, 3 * model.config.contextLength);
  await fs.writeFile(templatedPath(), pieces);
  return model.tokenizer.encode(flags.template).length;
}

const cellPath = (task, variant) => path.join(flags.work, 'cells', `${task.name}--${variant.name.replace(/[^\w.=-]+/g, '_')}.json`);
const printOf = (weights, task, variant) =>
  sha256(
    JSON.stringify([weights, path.basename(task.file), task.task, task.options, flags.seed, load.cacheType, variant.plan, variant.dropped]),
  );

async function readCell(weights, task, variant) {
  const text = await fs.readFile(cellPath(task, variant), 'utf8').catch(() => undefined);
  const cell = text && JSON.parse(text);
  return cell?.print === printOf(weights, task, variant) ? cell : undefined;
}

/** Missing cells, the most telling first, up to six variants of one task in a run beside dense. */
function runsOf(missing) {
  const runs = [];
  const order = ({ task, variant }) => task.tier + variant.tier + variant.tier / 10;
  for (const cell of missing.toSorted((a, b) => order(a) - order(b))) {
    const open = runs.find((run) => run.task === cell.task && run.order === order(cell) && run.variants.length < 6);
    if (open) open.variants.push(cell.variant);
    else runs.push({ task: cell.task, order: order(cell), variants: [cell.variant] });
  }
  return runs;
}

async function runCells(run, model, models, weights, signal) {
  const compare = [{ attention: 'dense', name: 'dense' }];
  for (const { name, plan, directory } of run.variants) {
    if (directory && !models.has(directory)) models.set(directory, await loadModel(directory, { ...load, attention: 'dense' }));
    compare.push({ attention: plan, name, ...(directory && { model: models.get(directory) }) });
  }
  const { task, file, options } = run.task;
  const { tasks } = await evaluate(model, { tasks: [{ task, file }], compare, seed: Number(flags.seed), signal, ...options });
  const { results, ...about } = tasks[0];
  const [dense, ...others] = results;
  for (const [i, result] of others.entries()) {
    const variant = run.variants[i];
    const cell = {
      print: printOf(weights, run.task, variant),
      task: run.task.name,
      variant: variant.name,
      about: { ...about, file: path.basename(file) },
      dense,
      result,
    };
    await fs.writeFile(cellPath(run.task, variant), `${JSON.stringify(cell, null, 1)}\n`);
  }
}

async function main() {
  await fs.mkdir(path.join(flags.work, 'cells'), { recursive: true });
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), Math.min(2 ** 31 - 1, Math.max(0, secondsLeft() * 1000)));
  process.once('SIGINT', () => abort.abort());
  const model = await loadModel(flags.model, { ...load, attention: 'dense' });
  const models = new Map();
  try {
    const { layers, heads, keyValueHeads } = model.config;
    const weights = [];
    for (const name of (await fs.readdir(flags.model)).filter((file) => file.endsWith('.safetensors')).sort())
      weights.push(sha256(await fs.readFile(path.join(flags.model, name))));
    const plans = new Map(await readPlans(model.config));
    const starts = [...numbers(flags.starts), ...(flags.template ? [await writeTemplated(model)] : [])];
    const sweep = { heads, keyValueHeads, warmups: numbers(flags.warmups), starts, seeds: numbers(flags.seeds) };
    const tasks = await findTasks();
    const chosen = [...plans]
      .flatMap(([budget, plan]) => variantsOf(budget, plan, sweep))
      .filter((variant) => tasks.some((task) => wanted(variant, task)));
    let variants = chosen.filter(({ plan }) => plan);
    try {
      variants = await makeDropped(chosen, plans, { layers, heads }, weights, abort.signal);
      const missing = [];
      for (const task of tasks)
        for (const variant of variants)
          if (wanted(variant, task) && !(await readCell(weights, task, variant))) missing.push({ task, variant });
      const runs = runsOf(missing);
      say(`${variants.length} variants, ${tasks.length} tasks, ${missing.length} cells to do in ${runs.length} runs`);
      for (const [i, run] of runs.entries()) {
        await runCells(run, model, models, weights, abort.signal);
        say(`run ${i + 1} of ${runs.length}: ${run.task.name}, ${run.variants.map(({ name }) => name).join('; ')}`);
      }
    } catch (error) {
      if (!abort.signal.aborted) throw error;
      say('stopped: the time is used up, or Ctrl-C; what is done is reported, run the same command again to go on');
    }
    const cells = [];
    for (const task of tasks) for (const variant of variants) if (wanted(variant, task)) cells.push(await readCell(weights, task, variant));
    await report(model, variants, tasks, cells.filter(Boolean));
  } finally {
    clearTimeout(timer);
    await Promise.all([model, ...models.values()].map((one) => one.close()));
  }
}

async function report(model, variants, tasks, cells) {
  const name = path.basename(path.resolve(flags.model));
  const about = {
    name,
    device: model.deviceDescription,
    seed: Number(flags.seed),
    limits: Object.fromEntries(tasks.map((task) => [task.name, task.options])),
  };
  const text = textOf(resultOf({ ...about, config: model.config }, variants, cells));
  const result = resultFrom(text);
  const out = flags.out ?? path.join('bench', 'results', `accuracy-${name}.json`);
  await fs.writeFile(out, text);
  const markdown = markdownOf(result);
  if (flags.markdown) await fs.writeFile(flags.markdown, markdown);
  else process.stdout.write(markdown);
  if (flags.chart) await fs.writeFile(flags.chart, chartOf(result));
  say(`${cells.length} cells in ${out}`);
}

await main();

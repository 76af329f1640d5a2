// The accuracy tables of the CHAI paper for someone who has the weights. In: a model directory, its evaluation sets, text for the static
// memberships. Out: a Markdown table of dense, CHAI, CHAI-static and CHAI-QKV beside the published figures, and the same as JSON.
import fs from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { keyValueSaving } from '../../dist/calibrate/plan.js';
import { evaluate, loadModel } from '../../dist/index.js';
import { comparedOf, findPlan, publishedFor } from './plan.mjs';
import { markdownOf, sets } from './table.mjs';

const usage = `usage: node scripts/paper/reproduce.mjs MODEL --data DIR --out DIR [--text FILE] [options]
  MODEL               directory with the weights: LLaMA-7B, LLaMA-33B, OPT-66B; models of other shapes run too, with nothing beside them
  --data DIR          piqa, hellaswag, arc_challenge, arc_easy, boolq as .jsonl (.gz, .xz); those there are run
  --out DIR           for tables.md, result.json and (with --text) head-plan.json; the same command goes on where a calibration stopped
  --text FILE         (repeatable) text whose samples say which heads belong together (the paper: C4); CHAI-static and CHAI-QKV need it,
                      or members in --plan
  --plan FILE         head plan: cluster counts, W and S (default: the first published one for the model's shape, in scripts/paper/plans;
                      where none is, the elbows of --text)
  --clustering NAME   kmeans, as the paper says, or average-linkage-cosine, as the authors' code does (default: the plan's; else kmeans)
  --samples N         samples of --text (default 1024, as in the paper)      --length N   tokens of each (default 256)
  --limit N           items of each set (default: all)
  --device, --threads, --cache-type   as of \`chai-llm evaluate\`            --help     this text`;

function readArguments() {
  const names = ['data', 'out', 'plan', 'clustering', 'samples', 'length', 'limit', 'device', 'threads', 'cache-type'];
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      ...Object.fromEntries(names.map((name) => [name, { type: 'string' }])),
      text: { type: 'string', multiple: true, default: [] },
      help: { type: 'boolean' },
    },
  });
  if (values.help || positionals.length !== 1 || !values.data || !values.out) {
    process[values.help ? 'stdout' : 'stderr'].write(`${usage}\n`);
    process.exit(values.help ? 0 : 2);
  }
  return { ...values, model: positionals[0] };
}

async function tasksIn(folder) {
  const files = await fs.readdir(folder);
  const tasks = sets.flatMap((task) => {
    const file = files.find((name) => name.startsWith(`${task}.jsonl`));
    return file ? [{ task, file: path.join(folder, file) }] : [];
  });
  if (tasks.length === 0) throw new Error(`${folder} holds none of ${sets.join(', ')} as .jsonl`);
  return tasks;
}

async function main() {
  const flags = readArguments();
  const tasks = await tasksIn(flags.data);
  await fs.mkdir(flags.out, { recursive: true });
  const load = { device: flags.device ?? 'auto', threads: Number(flags.threads ?? 0), cacheType: flags['cache-type'] ?? 'auto' };
  const model = await loadModel(flags.model, { ...load, attention: 'dense' });
  try {
    const published = await publishedFor(model.config);
    const plan = await findPlan(model, flags, published);
    const compare = comparedOf(plan, model.config);
    const result = await evaluate(model, { tasks, compare, limit: flags.limit && Number(flags.limit) });
    const clusters = plan.online.layers.map((layer) => layer.clusters);
    const markdown = markdownOf(result, published, keyValueSaving(clusters, model.config));
    await fs.writeFile(
      path.join(flags.out, 'result.json'),
      `${JSON.stringify({ counts: plan.counts, plan: plan.online, published, ...result }, null, 1)}\n`,
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

// `chai-llm evaluate`: how well a model does under several kinds of attention. In: a directory and data files. Out: a table, JSON, a chart.
import fs from 'node:fs/promises';
import path from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { ChaiError } from '../errors';
import { evaluationChart } from '../evaluate/chart';
import { figureText } from '../evaluate/figure_text';
import { type TaskName, taskNames } from '../evaluate/formats';
import type { AttentionResult, EvaluationTask, Figure, TaskResult } from '../evaluate/types';
import type { Evaluation, Model } from '../index';
import { version } from '../version';
import { bytes, counted, rate, saving, table } from './format';
import { untilInterrupted, withModel } from './load';
import { addLoadOptions, count, footer, type LoadFlags, loadOptions, number } from './options';
import { proveWritable, write } from './output';
import { remainingBar } from './progress';

interface Flags extends LoadFlags {
  task: string[];
  data?: string;
  compare?: string;
  limit?: number;
  seed: number;
  shots: number;
  window?: number;
  stride?: number;
  specialTokens: boolean;
  concurrency: number;
  items?: boolean;
  json?: boolean;
  out?: string;
  chart?: string;
}

const named = (task: string): task is TaskName => (taskNames as string[]).includes(task);

export function addEvaluate(program: Command): Command {
  const command = program
    .command('evaluate')
    .description('measure perplexity and accuracy, several kinds of attention side by side')
    .argument('<model>', 'model directory')
    .requiredOption('--task <task=file...>', 'what to measure on which file (repeatable); with --data, tasks alone will do', listed)
    .option('--data <folder>', 'where files named as their tasks lie, such as piqa.jsonl.xz')
    .option('--compare <list>', 'kinds of attention: dense, chai, chai-static, paths of head plans (default: that of --attention)')
    .option('--limit <count>', 'items (windows of text) of each file, drawn by the seed (default: all)', count)
    .option('--seed <n>', 'fixes what is drawn', number, 0)
    .option('--shots <count>', 'solved examples before each item, drawn from its file', number, 0)
    .option('--window <tokens>', 'window of text (default: the context, at most 1024)', count)
    .option('--stride <tokens>', 'from one window to the next, for perplexity (default: half a window)', count)
    .option('--no-special-tokens', 'leave out what the tokenizer puts before a text, as lm-evaluation-harness does by default')
    .option('--concurrency <count>', 'items at work at a time', count, 16);
  return addLoadOptions(command)
    .option('--items', "in the JSON, also each item's log-likelihoods")
    .option('--json', 'print the whole result as JSON')
    .option('--out <file>', 'also write the result as JSON to a file')
    .option('--chart <file>', 'also draw the result: .svg or .html')
    .addHelpText('after', footer(help))
    .action(run);
}

const help = `
Tasks: ${taskNames.join(', ')}.

perplexity and agreement (with dense: same likeliest token, mean KL) take text: plain, or JSONL with a "text" a line. The others take JSONL
with one item a line; choice is multiple choice without a prompt form. Files may end in .gz or .xz.

Every figure has its standard error beside it (±), every difference to dense the paired one. "chance" is what guessing gets. Shown in
percent are accuracies and agreement. Prompts and scores are lm-evaluation-harness's; docs/evaluation.md says them in full.

Examples:
  chai-llm evaluate ./model --task perplexity=book.txt --compare dense,chai,chai-static
  chai-llm evaluate ./model --data ./eval --task piqa hellaswag blimp --limit 500 --compare dense,chai --chart result.svg
  chai-llm evaluate ./model --task lambada=lambada.jsonl.xz --compare dense,./half.json --json --out result.json`;

function listed(text: string, all: string[] = []): string[] {
  const [task = '', file] = split(text);
  if (!named(task)) throw new InvalidArgumentError(`There is no task ${task}; the tasks are ${taskNames.join(', ')}.`);
  if (file === '') throw new InvalidArgumentError('The file has no name.');
  return [...all, text];
}

function split(text: string): [task: string, file?: string] {
  const at = text.indexOf('=');
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

async function findTasks({ task, data }: Flags): Promise<EvaluationTask[]> {
  const files = data === undefined ? [] : await entriesOf(data);
  return task.map((text) => {
    const [name, file] = split(text);
    if (file !== undefined) return { task: name as TaskName, file };
    if (data === undefined)
      throw new ChaiError('OPTION_INVALID', `--task ${name}: name a file (${name}=FILE), or the folder of all with --data`);
    const found = files.find((entry) => new RegExp(`^${name}\\.(jsonl|txt)(\\.gz|\\.xz)?$`).test(entry));
    if (!found)
      throw new ChaiError('OPTION_INVALID', `--task ${name}: ${data} has no ${name}.jsonl or .txt, plain or packed as .gz or .xz`);
    return { task: name as TaskName, file: path.join(data, found) };
  });
}

async function entriesOf(folder: string): Promise<string[]> {
  return fs.readdir(folder).catch((error: Error) => {
    throw new ChaiError('OPTION_INVALID', `--data: cannot read ${folder}: ${error.message}`, { cause: error });
  });
}

async function run(directory: string, flags: Flags): Promise<void> {
  if (flags.chart !== undefined && !/\.(svg|html)$/i.test(flags.chart))
    throw new ChaiError('OPTION_INVALID', `--chart ${flags.chart}: the name must end in .svg or .html`);
  const tasks = await findTasks(flags);
  await proveWritable(flags.out, flags.chart);
  await withModel(directory, loadOptions(flags), async (model) => {
    const finished: TaskResult[] = [];
    try {
      await untilInterrupted((signal) => measure(model, tasks, flags, signal, (result) => finished.push(result)));
    } finally {
      if (finished.length > 0) await report(directory, model, { tasks: finished }, flags, tasks.length - finished.length);
    }
  });
}

async function measure(
  model: Model,
  tasks: EvaluationTask[],
  flags: Flags,
  signal: AbortSignal,
  onTask: (result: TaskResult) => void,
): Promise<void> {
  const { evaluate } = await import('../index.js');
  const { limit, seed, shots, window, stride, concurrency, specialTokens: addSpecialTokens, items: details } = flags;
  const bar = remainingBar('evaluating');
  try {
    await evaluate(model, {
      ...{ tasks, limit, seed, shots, window, stride, concurrency, addSpecialTokens, details, signal, onTask },
      compare: flags.compare?.split(',') ?? ['auto'],
      onProgress: ({ phase, task, done, total }) => bar.update(done, total, phase === 'reading' ? `reading ${task}` : task),
    });
  } finally {
    bar.end();
  }
}

/** `missing`: tasks that a Ctrl-C or an error left undone; the finished ones are not lost with them. */
async function report(directory: string, model: Model, evaluation: Evaluation, flags: Flags, missing: number): Promise<void> {
  const about = {
    chaiLlm: version,
    date: new Date().toISOString(),
    device: model.deviceDescription,
    model: { directory, ...model.config },
  };
  const json = `${JSON.stringify({ ...about, seed: flags.seed, ...(missing > 0 && { missing }), ...evaluation }, null, 2)}\n`;
  if (flags.out) await fs.writeFile(flags.out, json);
  if (flags.chart) await fs.writeFile(flags.chart, evaluationChart(evaluation, path.basename(directory), /\.html$/i.test(flags.chart)));
  await write(flags.json ? json : `${show(evaluation)}\n`);
  if (missing > 0) process.stderr.write(`broken off: ${counted(missing, 'task')} not done; ask for the missing ones alone to go on\n`);
}

const titles: Record<Figure['name'], string> = {
  accuracy: 'accuracy %',
  accuracyPerCharacter: 'acc_norm %',
  accuracyPerByte: 'acc_bytes %',
  perplexity: 'perplexity',
  natsPerToken: 'nats/token',
  bitsPerByte: 'bits/byte',
  topOneAgreement: 'same top token %',
  meanDivergence: 'KL, nats',
};

function show({ tasks }: Evaluation): string {
  const kinds = tasks[0]?.results.map(({ attention }) => attention) ?? [];
  const rows = tasks.flatMap((task) => [[label(task)], ...figureRows(task), ...costRows(task)]);
  return table([['', ...kinds], ...rows]);
}

/** `acc_bytes` differs from `acc_norm` by other scripts' letters alone: it is in the JSON. */
function figureRows(task: TaskResult): string[][] {
  const [first] = task.results;
  return (first?.figures ?? []).flatMap(({ name }, i) =>
    name === 'accuracyPerByte'
      ? []
      : [[`  ${titles[name]}`, ...task.results.map(({ figures }) => (figures[i] ? figureText(figures[i]) : '-'))]],
  );
}

function costRows(task: TaskResult): string[][] {
  const held = ({ cacheBytes: { keys, values, denseKeys, denseValues } }: AttentionResult) => {
    const [now, dense] = [keys + values, denseKeys + denseValues];
    return `${bytes(now)}${now === dense ? '' : ` (${saving(now, dense)})`}`;
  };
  const speeds = task.results.map(({ tokens, seconds }) => (seconds === undefined ? '-' : rate(tokens / seconds)));
  return [
    ['  K/V cache of an item', ...task.results.map(held)],
    ...(speeds.every((speed) => speed === '-') ? [] : [['  tokens/s', ...speeds]]),
  ];
}

function label({ task, file, items, available, shots, chance, majority, truncated, tooLong }: TaskResult): string {
  const stem = path.basename(file).replace(/\.(txt|jsonl|ndjson)?(\.gz|\.xz)?$/i, '');
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
  const notes = [
    ...(stem === task ? [] : [stem]),
    items === available ? `${items}` : `${items} of ${available}`,
    ...(shots > 0 ? [counted(shots, 'shot')] : []),
    ...(tooLong > 0 ? [`${tooLong} too long left out`] : []),
    ...(truncated > 0 ? [`${truncated} cut to fit`] : []),
    ...(chance === undefined ? [] : [`chance ${percent(chance)}`]),
    ...(majority === undefined ? [] : [`always the commonest answer ${percent(majority)}`]),
  ];
  return `${task}: ${notes.join(', ')}`;
}

// `chai-llm calibrate`: finds how a model's heads cluster. In: a directory and text. Out: a head plan, a report page, a table or JSON.
import fs from 'node:fs/promises';
import path from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { planText } from '../calibrate/plan';
import { calibrationPage } from '../calibrate/report/page';
import { replaceFile } from '../calibrate/state';
import type { Calibration, CalibrationBudget, CalibrationProgress } from '../calibrate/types';
import { ChaiError } from '../errors';
import type { Model } from '../index';
import { version } from '../version';
import { counted, table } from './format';
import { untilInterrupted, withModel } from './load';
import { addMachineOptions, count, footer, type LoadFlags, loadOptions, number } from './options';
import { proveReplaceable, write } from './output';
import { remainingBar } from './progress';

interface Flags extends LoadFlags {
  text: string[];
  out: string;
  /** false with --no-report. */
  report?: string | false;
  samples: number;
  length?: number;
  warmup: number;
  warmupStart: number;
  clustering: 'kmeans' | 'average-linkage-cosine';
  method: 'chai' | 'chai-static';
  budget?: CalibrationBudget;
  clusters?: number[];
  heldOut: number;
  heldOutText?: string[];
  specialTokens: boolean;
  seed: number;
  concurrency: number;
  resume?: boolean;
  state?: string;
  json?: boolean;
}

export function addCalibrate(program: Command): Command {
  const each = (text: string, all: string[] = []) => [...all, text];
  const command = program
    .command('calibrate')
    .description("find how many clusters each layer's heads form, and write the head plan that CHAI needs")
    .argument('<model>', 'model directory')
    .requiredOption('--text <file...>', 'text such as the model will read: plain or JSONL with a "text" a line, also .gz, .xz', each)
    .option('--out <file>', 'the head plan', 'head-plan.json')
    .option('--report <file>', 'the report page (default: beside the plan, .html)')
    .option('--no-report', 'write no report page')
    .option('--budget <budget>', 'kv:15% saves at least that share of the K/V cache; loss:2% raises perplexity at most so much', budget)
    .option('--clusters <list>', 'counts that are known already: one for all layers, or a list such as 18x32,14x4', countList)
    .option('--samples <count>', 'samples of the text, drawn by the seed', count, 1024)
    .option('--length <tokens>', 'tokens of a sample (default: 256, or the context where that is shorter)', count)
    .option('--warmup <tokens>', 'W: tokens from which a sequence finds its membership', count, 5)
    .option('--warmup-start <tokens>', 'S: tokens before these, such as a template that all requests share', number, 0)
    .addOption(new Option('--clustering <method>', 'how heads are grouped').choices(['kmeans', 'average-linkage-cosine']).default('kmeans'))
    .addOption(
      new Option('--method <method>', 'what the plan does by default, and a budget is measured with')
        .choices(['chai', 'chai-static'])
        .default('chai'),
    )
    .option('--held-out <count>', 'windows of text that measure loss, none of them a sample', count, 128)
    .option('--held-out-text <file...>', 'where these come from (default: the same text)', each)
    .option('--no-special-tokens', 'leave out what the tokenizer puts before a text')
    .option('--seed <n>', 'fixes what is drawn', number, 0)
    .option('--concurrency <count>', 'samples at work at a time', count, 4)
    .option('--resume', 'go on where the same calibration was broken off')
    .option('--state <file>', 'use what this file holds, keep there what is computed: further budgets then take a fraction of the time');
  return addMachineOptions(command).option('--json', 'print the whole result as JSON').addHelpText('after', footer(help)).action(run);
}

const help = `
What happens: samples pass the dense model; the heads of each layer are clustered by their attention scores for k = 1, 2, ... clusters, and the
elbow of the error curve (the Kneedle rule) says how many a layer needs. With --budget, counts are found by measured loss instead: each layer
is reduced alone, then all together. The plan also holds the typical membership of heads, for chai-static.

Use the plan: put it into the model directory as head-plan.json, or pass it with --attention. Look at the report before you do.
A run that was broken off (Ctrl-C, too) goes on with the same command and --resume. For several budgets name one --state FILE in all commands: samples
pass the model once, and no counts are measured twice. docs/calibration.md says all rules in full.

Examples:
  chai-llm calibrate ./model --text book.txt
  chai-llm calibrate ./model --text a.jsonl.gz b.txt.xz --budget kv:20% --out ./model/head-plan.json
  chai-llm calibrate ./llama-7b --text c4.jsonl.gz --clusters 18x32,14x4
  chai-llm calibrate ./model --text book.txt --budget kv:10% --out kv-10.json --state work.state
  chai-llm calibrate ./model --text book.txt --budget kv:20% --out kv-20.json --state work.state
  chai-llm calibrate ./model --text chats.jsonl --warmup-start 24 --budget loss:1% --resume`;

function budget(text: string): CalibrationBudget {
  const [, kind, amount] = /^(kv|loss):(\d+(?:\.\d+)?)\s*%$/.exec(text) ?? [];
  if (kind === undefined) throw new InvalidArgumentError('Write kv:15% (least K/V saving) or loss:2% (largest rise of perplexity).');
  const share = Number(amount) / 100;
  return kind === 'kv' ? { keyValueSaving: share } : { perplexityIncrease: share };
}

/** '18x32,14x4' or '3,8,8'; a single count is for all layers, whose number is not known here: a list of one. */
function countList(text: string): number[] {
  const runs = text.split(',').map((part) => /^(?:([1-9]\d{0,3})x)?([1-9]\d{0,4})$/.exec(part.trim()));
  if (runs.includes(null))
    throw new InvalidArgumentError('Write 8, or 3,8,8,8 (a count a layer), or 18x32,14x4 (18 layers of 32, 14 of 4).');
  return runs.flatMap((match) => new Array(Number(match?.[1] ?? 1)).fill(Number(match?.[2])));
}

async function run(directory: string, flags: Flags): Promise<void> {
  const page = flags.report === false ? undefined : (flags.report ?? flags.out.replace(/(\.json)?$/i, '.html'));
  await proveReplaceable(flags.out, page, flags.state);
  await proveNothingLost(flags);
  await withModel(directory, { ...loadOptions(flags), attention: 'dense' }, async (model) => {
    const began = performance.now();
    const calibration = await untilInterrupted((signal) => measure(model, flags, signal));
    if (!calibration) return void process.stderr.write(brokenOff(flags));
    await replaceFile(flags.out, planText(calibration.plan));
    const name = path.basename(path.resolve(directory));
    if (page !== undefined) await replaceFile(page, await calibrationPage(calibration, name));
    const about = { chaiLlm: version, date: new Date().toISOString(), device: model.deviceDescription, seconds: seconds(began) };
    const json = () => `${JSON.stringify({ ...about, directory, out: flags.out, report: page, ...calibration }, null, 2)}\n`;
    await write(flags.json ? json() : `${show(calibration, flags.out, page)}\n`);
  });
}

/** Beginning anew would write over what a broken-off run has saved. */
async function proveNothingLost({ out, resume, state }: Flags): Promise<void> {
  const saved = savedIn(out);
  const there = await fs.access(saved).then(
    () => true,
    () => false,
  );
  if (there && !resume && state === undefined)
    throw new ChaiError('OPTION_INVALID', `${saved} is there, of a run that was broken off: go on from it with --resume, or remove it`);
}

const savedIn = (out: string) => `${out}.state`;
const brokenOff = ({ state }: Flags) => `broken off; the same command${state ? '' : ' with --resume'} goes on from what was saved\n`;
const seconds = (since: number) => Math.round(performance.now() - since) / 1000;

async function measure(model: Model, flags: Flags, signal: AbortSignal): Promise<Calibration> {
  const { calibrate } = await import('../index.js');
  const { text, samples, length, clustering, method, heldOut, heldOutText, seed, concurrency, warmupStart } = flags;
  const state = { stateFile: flags.state ?? savedIn(flags.out), resume: flags.resume || flags.state !== undefined };
  const bar = remainingBar('calibrating');
  try {
    return await calibrate(model, {
      ...{ text, samples, length, clustering, method, heldOut, heldOutText, seed, concurrency, warmupStart, signal },
      clusters: flags.clusters?.length === 1 ? new Array(model.config.layers).fill(flags.clusters[0]) : flags.clusters,
      ...{ warmupTokens: flags.warmup, budget: flags.budget, addSpecialTokens: flags.specialTokens },
      ...{ ...state, keepState: flags.state !== undefined },
      onProgress: ({ phase, done, total, detail }) =>
        bar.update(done, phase === 'reading' ? 0 : total, `${titles[phase]}${detail && ` · ${detail}`}`),
    });
  } finally {
    bar.end();
  }
}

const titles: Record<CalibrationProgress['phase'], string> = {
  reading: 'reading',
  attention: 'attention scores',
  search: 'trying counts',
  membership: 'memberships',
  measuring: 'measuring',
};

const percent = (share: number, digits = 1) => `${(share * 100).toFixed(digits)} %`;
const signed = (share: number) => `${share < 0 ? '' : '+'}${percent(share, 2)}`;

function show(calibration: Calibration, out: string, page: string | undefined): string {
  const { losses, layers, model, options, search } = calibration;
  const rows = losses.map(({ name, keyValueSaving, perplexity, standardError, increase, increaseError }) => [
    name === 'elbow' ? `${calibration.plan.method}, elbow counts` : name,
    percent(keyValueSaving),
    `${perplexity.toFixed(3)} ± ${standardError.toFixed(3)}`,
    name === 'dense' ? '-' : `${signed(increase)} ± ${percent(increaseError, 2)}`,
  ]);
  const judged = search ? Math.ceil(options.heldOut / 2) : options.heldOut;
  return [
    `clusters of ${counted(model.heads, 'head')}, layer by layer: ${layers.map(({ clusters }) => clusters).join(' ')}`,
    ...(search || options.clusters ? [`the elbows would be: ${layers.map((layer) => layer.elbow).join(' ')}`] : []),
    '',
    table([[`on ${judged} held-out windows`, 'K/V saved', 'perplexity', 'to dense'], ...rows]),
    '',
    ...(search ? [searchLine(calibration), ...missed(calibration), ''] : []),
    `wrote ${out}${page === undefined ? '' : ` and ${page}`}`,
  ].join('\n');
}

function searchLine({ options, search }: Calibration): string {
  const { evaluations = 0, increase = 0, keyValueSaving = 0 } = search ?? {};
  const [guided, { budget: asked }] = [Math.floor(options.heldOut / 2), options];
  const wish =
    !asked || 'keyValueSaving' in asked ? `saving ${percent(asked?.keyValueSaving ?? 0)}` : `at most ${signed(asked.perplexityIncrease)}`;
  return `budget (${wish}): ${percent(keyValueSaving)} saved at ${signed(increase)} perplexity on the other ${guided} windows, after ${counted(evaluations, 'measurement')}`;
}

/** The search meets its budget on the windows that guide it; others may say something else. */
function missed({ options: { budget }, losses, plan }: Calibration): string[] {
  const { increase = 0 } = losses.find(({ name }) => name === plan.method) ?? {};
  if (!budget || 'keyValueSaving' in budget || increase <= budget.perplexityIncrease) return [];
  return [`these windows cost more than that (${signed(increase)}, above): ask for less, or give more --held-out windows`];
}

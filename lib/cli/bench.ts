// `chai-llm bench`: speed and K/V cache of a model, dense beside clustered, in one interleaved run. In: a directory. Out: a table or JSON.
import fs from 'node:fs/promises';
import os from 'node:os';
import { type Command, Option } from 'commander';
import { ChaiError } from '../errors';
import type { Model } from '../model';
import { version } from '../version';
import { bytes, counted, milliseconds, rate, saving, table, wholePages } from './format';
import { withModel } from './load';
import { type BatchCase, measureBatches, measureSingles, type Plan, roundsOf, type SingleCase, type Summary } from './measure';
import { addLoadOptions, count, counts, footer, type LoadFlags, loadOptions } from './options';
import { proveWritable, write } from './output';
import { countingBar } from './progress';

interface Flags extends LoadFlags {
  prompt?: number[];
  generate: number;
  rounds: number;
  batch: number[];
  json?: boolean;
  out?: string;
}

interface Report {
  chaiLlm: string;
  node: string;
  platform: string;
  date: string;
  cpu: string;
  device: string;
  model: { directory: string } & Model['config'];
  rounds: number;
  generate: number;
  single: SingleCase[];
  batched: BatchCase[];
  loadAverage: { before: number[]; after: number[] };
}

const usualPrompts = [128, 512];

export function addBench(program: Command): Command {
  const command = program
    .command('bench')
    .description('measure prompt and generation speed and the K/V cache, dense beside clustered')
    .argument('<model>', 'model directory')
    .option('--prompt <lengths>', `prompt lengths in tokens (default: of ${usualPrompts} those that fit the context)`, counts)
    .option('--generate <tokens>', 'tokens to generate after each prompt', count, 64)
    .addOption(
      new Option('--batch <counts>', 'concurrent generate calls, with the shortest prompt').argParser(counts).default([1, 4, 16], '1,4,16'),
    )
    .option('--rounds <count>', 'measured rounds, after one to warm up', count, 5);
  return addLoadOptions(command)
    .option('--json', 'print the whole report as JSON')
    .option('--out <file>', 'also write the report as JSON to a file')
    .addHelpText(
      'after',
      footer(`
Each prompt length is also the depth at which decoding starts. Prompts are new random tokens in each round; dense and clustered rounds
take turns. "prefill" and "decode" are steps of the engine alone; "seen" counts from the first token on, as the caller gets them. The
second table counts the generated tokens of all calls over wall time, prompts included. Shown are medians, and (min-max).
1 kB = 1000 B. On a shared machine use --threads 1 and mind the load average.

Examples:
  chai-llm bench ./model
  chai-llm bench ./model --prompt 128,512,2048 --generate 64 --threads 1 --out result.json
  chai-llm bench ./model --batch 1,16 --rounds 9 --json`),
    )
    .action(run);
}

async function run(directory: string, flags: Flags): Promise<void> {
  await proveWritable(flags.out);
  const { inspectModel } = await import('../index.js');
  const context = flags.contextLength ?? (await inspectModel(directory)).config.contextLength;
  const prompts = choosePrompts(flags, context);
  const options = { ...loadOptions(flags), ...poolFor(prompts, flags, context) };
  await withModel(directory, options, async (model) => {
    const report = await measure(directory, model, prompts, flags);
    const json = `${JSON.stringify(report, null, 2)}\n`;
    if (flags.out) await fs.writeFile(flags.out, json);
    await write(flags.json ? json : `${show(report)}\n`);
  });
}

/** A length that would be cut short by the context is refused: its figures would be of something else. */
function choosePrompts({ prompt, generate }: Flags, context: number): number[] {
  const most = context - generate;
  if (most < 1)
    throw new ChaiError('OPTION_INVALID', `--generate ${generate} leaves no room for a prompt: the context holds ${context} tokens`);
  const long = prompt?.find((length) => length > most);
  if (long)
    throw new ChaiError('OPTION_INVALID', `--prompt ${long} and --generate ${generate} do not fit: the context holds ${context} tokens`);
  const fitting = prompt ?? usualPrompts.filter((length) => length <= most);
  return fitting.length > 0 ? fitting : [most];
}

/** Room for all concurrent calls at once: a pool that is too small would measure waiting. */
function poolFor(prompts: number[], { batch, generate }: Flags, context: number) {
  const calls = Math.max(...batch);
  return { maxBatch: calls, cacheTokens: Math.max(wholePages(context), calls * wholePages((prompts[0] ?? 1) + generate)) };
}

async function measure(directory: string, model: Model, prompts: number[], flags: Flags): Promise<Report> {
  const kinds = model.attention === 'dense' ? ['dense'] : ['dense', model.attention];
  const before = os.loadavg();
  const plan: Plan = {
    kinds,
    prompts,
    calls: flags.batch,
    generate: flags.generate,
    rounds: flags.rounds,
    onRound: (what) => bar.step(what),
  };
  const bar = countingBar(roundsOf(plan));
  try {
    const single = await measureSingles(model, plan);
    const batched = await measureBatches(model, plan);
    return {
      chaiLlm: version,
      node: process.version,
      platform: `${process.platform} ${process.arch}`,
      date: new Date().toISOString(),
      cpu: os.cpus()[0]?.model ?? 'unknown',
      device: model.deviceDescription,
      model: { directory, ...model.config },
      rounds: flags.rounds,
      generate: flags.generate,
      single,
      batched,
      loadAverage: { before, after: os.loadavg() },
    };
  } finally {
    bar.end();
  }
}

const range = ({ median, min, max }: Summary, form: (value: number) => string) => `${form(median)} (${form(min)}-${form(max)})`;

function show({ chaiLlm, node, platform, cpu, device, model, rounds, generate, single, batched, loadAverage }: Report): string {
  const loads = (values: number[]) => values.map((value) => value.toFixed(2)).join(' ');
  const singleRows = single.map(({ attention, promptTokens, prefill, firstTokenMs, decode, seen, cacheBytes }) => {
    const [held, dense] = [cacheBytes.keys + cacheBytes.values, cacheBytes.denseKeys + cacheBytes.denseValues];
    const speeds = [range(prefill, rate), milliseconds(firstTokenMs.median), range(decode, rate), range(seen, rate)];
    return [attention, String(promptTokens), ...speeds, bytes(held), saving(held, dense)];
  });
  const batchRows = batched.map(({ attention, calls, aggregate, stepsPerRound, rowsPerStep, largestBatch }) => {
    return [attention, String(calls), range(aggregate, rate), stepsPerRound.toFixed(0), rowsPerStep.toFixed(1), String(largestBatch)];
  });
  return [
    `chai-llm ${chaiLlm}, Node ${node}, ${platform}, ${cpu}`,
    `${device}, load average ${loads(loadAverage.before)} before, ${loads(loadAverage.after)} after`,
    `${model.directory}: ${counted(rounds, 'round')}, ${counted(generate, 'token')} generated after each prompt`,
    ...(single.some(({ attention }) => attention !== 'dense') ? [] : ['no head plan in use: dense attention only']),
    '',
    table([['attention', 'prompt', 'prefill tok/s', 'first token', 'decode tok/s', 'seen tok/s', 'K/V cache', 'to dense'], ...singleRows]),
    '',
    table([['attention', 'calls', 'tok/s in all', 'steps a round', 'rows a step', 'largest batch'], ...batchRows]),
  ].join('\n');
}

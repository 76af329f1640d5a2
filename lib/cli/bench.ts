// `chai-llm bench`: speed and K/V cache of a model, dense beside clustered, in one interleaved run. In: a directory. Out: a table or JSON.
import fs from 'node:fs/promises';
import os from 'node:os';
import type { Command } from 'commander';
import { loadModel, type Model } from '../model';
import { version } from '../version';
import { bytes, milliseconds, rate, saving, table } from './format';
import { addLoadOptions, count, counts, type LoadFlags, loadOptions } from './options';
import { loadingBar } from './progress';

interface Flags extends LoadFlags {
  prompt: number[];
  generate: number;
  rounds: number;
  batch: number[];
  json?: boolean;
  out?: string;
}

interface Summary {
  median: number;
  min: number;
  max: number;
}

/** One prompt length under one kind of attention. */
interface Case {
  attention: string;
  promptTokens: number;
  promptTokensPerSecond: Summary;
  firstTokenMs: Summary;
  decodeTokensPerSecond: Summary;
  cacheBytes: number;
  denseCacheBytes: number;
}

/** Concurrent generate calls. */
interface BatchCase {
  attention: string;
  sequences: number;
  tokensPerSecond: Summary;
  steps: number;
  largestBatch: number;
}

export function addBench(program: Command): void {
  const command = program
    .command('bench')
    .description('measure prompt and generation speed and the K/V cache, dense beside clustered')
    .argument('<model>', 'model directory')
    .option('--prompt <lengths>', 'prompt lengths in tokens', counts, [32, 128])
    .option('--generate <tokens>', 'tokens to generate after each prompt', count, 32)
    .option('--batch <counts>', 'concurrent generate calls', counts, [1, 4, 16])
    .option('--rounds <count>', 'measured rounds, after one to warm up', count, 5);
  addLoadOptions(command)
    .option('--json', 'print the whole report as JSON')
    .option('--out <file>', 'also write the report as JSON to a file')
    .addHelpText(
      'after',
      '\nExamples:\n  chai-llm bench ./model\n  chai-llm bench ./model --prompt 128,512,2048 --generate 64 --threads 1 --out result.json',
    )
    .action(run);
}

async function run(directory: string, flags: Flags): Promise<void> {
  const bar = loadingBar();
  const model = await loadModel(directory, { ...loadOptions(flags), onProgress: bar.report }).finally(bar.end);
  try {
    const kinds = model.attention === 'dense' ? ['dense'] : ['dense', model.attention];
    const loadBefore = os.loadavg();
    const report = {
      chaiLlm: version,
      node: process.version,
      date: new Date().toISOString(),
      cpu: os.cpus()[0]?.model,
      device: model.deviceDescription,
      model: { directory, ...model.config },
      rounds: flags.rounds,
      generate: flags.generate,
      single: await singles(model, kinds, flags),
      batched: await batches(model, kinds, flags),
      loadAverage: { before: loadBefore, after: os.loadavg() },
    };
    if (flags.out) await fs.writeFile(flags.out, `${JSON.stringify(report, null, 2)}\n`);
    process.stdout.write(flags.json ? `${JSON.stringify(report, null, 2)}\n` : `${show(report)}\n`);
  } finally {
    await model.close();
  }
}

const summary = (values: number[]): Summary => {
  const sorted = values.toSorted((a, b) => a - b);
  return { median: sorted[sorted.length >> 1] ?? 0, min: sorted[0] ?? 0, max: sorted.at(-1) ?? 0 };
};

/** New ids each round, so that nothing can be remembered. */
const randomIds = (model: Model, length: number) => Array.from({ length }, () => Math.floor(Math.random() * model.config.vocabularySize));

const attentionOf = (kind: string) => (kind === 'dense' ? { attention: 'dense' } : undefined);

async function singles(model: Model, kinds: string[], flags: Flags): Promise<Case[]> {
  const cases: Case[] = [];
  for (const promptTokens of flags.prompt) {
    const samples = new Map(
      kinds.map((kind) => [kind, { prompt: [] as number[], first: [] as number[], decode: [] as number[], held: 0, dense: 0 }]),
    );
    for (let round = 0; round <= flags.rounds; ++round)
      for (const [kind, sample] of samples) {
        const session = await model.createSession(attentionOf(kind));
        const generation = session.generate(randomIds(model, promptTokens), { maxTokens: flags.generate, ignoreEos: true });
        await generation.text();
        const { keys, values, denseKeys, denseValues } = session.cacheBytes;
        await session.close();
        if (round === 0 || !generation.timings) continue;
        sample.prompt.push(generation.timings.promptTokensPerSecond);
        sample.first.push(generation.timings.timeToFirstTokenMs);
        sample.decode.push(generation.timings.decodeTokensPerSecond);
        Object.assign(sample, { held: keys + values, dense: denseKeys + denseValues });
      }
    for (const [attention, { prompt, first, decode, held, dense }] of samples)
      cases.push({
        attention,
        promptTokens,
        promptTokensPerSecond: summary(prompt),
        firstTokenMs: summary(first),
        decodeTokensPerSecond: summary(decode),
        cacheBytes: held,
        denseCacheBytes: dense,
      });
  }
  return cases;
}

async function batches(model: Model, kinds: string[], flags: Flags): Promise<BatchCase[]> {
  const cases: BatchCase[] = [];
  const prompt = flags.prompt[0] ?? 32;
  for (const sequences of flags.batch)
    for (const attention of kinds) {
      const rates: number[] = [];
      const before = model.stats;
      for (let round = 0; round <= flags.rounds; ++round) {
        const started = performance.now();
        const one = async () => {
          const session = await model.createSession(attentionOf(attention));
          await session.complete(randomIds(model, prompt), { maxTokens: flags.generate, ignoreEos: true });
          await session.close();
        };
        await Promise.all(Array.from({ length: sequences }, one));
        if (round > 0) rates.push((sequences * flags.generate * 1000) / (performance.now() - started));
      }
      const { steps, largestBatch } = model.stats;
      cases.push({
        attention,
        sequences,
        tokensPerSecond: summary(rates),
        steps: Math.round((steps - before.steps) / (flags.rounds + 1)),
        largestBatch,
      });
    }
  return cases;
}

function show(report: { device: string; loadAverage: { before: number[] }; single: Case[]; batched: BatchCase[] }): string {
  const singleRows = report.single.map((c) => [
    c.attention,
    String(c.promptTokens),
    rate(c.promptTokensPerSecond.median),
    milliseconds(c.firstTokenMs.median),
    rate(c.decodeTokensPerSecond.median),
    `${rate(c.decodeTokensPerSecond.min)}-${rate(c.decodeTokensPerSecond.max)}`,
    bytes(c.cacheBytes),
    saving(c.cacheBytes, c.denseCacheBytes),
  ]);
  const batchRows = report.batched.map((c) => [
    c.attention,
    String(c.sequences),
    rate(c.tokensPerSecond.median),
    String(c.steps),
    String(c.largestBatch),
  ]);
  return [
    `${report.device} · load average ${report.loadAverage.before.map((x) => x.toFixed(2)).join(' ')}`,
    '',
    table([['attention', 'prompt', 'prompt tok/s', 'first token', 'decode tok/s', 'min-max', 'K/V cache', 'saved'], ...singleRows]),
    '',
    table([['attention', 'calls at once', 'tokens/s in all', 'steps a round', 'largest batch'], ...batchRows]),
  ].join('\n');
}

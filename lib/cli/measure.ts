// The measurements behind `chai-llm bench`. In: a model, kinds of attention, lengths. Out: samples as medians and extremes. No printing.
import type { Model } from '../model';
import { seenRate } from './format';

export interface Summary {
  median: number;
  min: number;
  max: number;
}

/** One prompt length under one kind of attention. Rates in tokens a second. */
export interface SingleCase {
  attention: string;
  promptTokens: number;
  /** Steps of the engine alone. */
  prefill: Summary;
  decode: Summary;
  /** From the first token on, as the caller sees them. */
  seen: Summary;
  firstTokenMs: Summary;
  cacheBytes: { keys: number; values: number; denseKeys: number; denseValues: number };
}

/** Concurrent generate calls under one kind of attention. */
export interface BatchCase {
  attention: string;
  calls: number;
  promptTokens: number;
  /** Generated tokens of all calls a second of wall time, their prompts included. */
  aggregate: Summary;
  stepsPerRound: number;
  rowsPerStep: number;
  /** Most sequences in one step, up to this case. */
  largestBatch: number;
}

export interface Plan {
  /** 'dense' and the model's own. */
  kinds: string[];
  prompts: number[];
  calls: number[];
  generate: number;
  rounds: number;
  onRound: (what: string) => void;
}

/** How often `onRound` will be called. */
export function roundsOf({ kinds, prompts, calls, rounds }: Plan): number {
  return (prompts.length + calls.length) * kinds.length * (rounds + 1);
}

export function summarize(values: readonly number[]): Summary {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (i: number) => sorted[i] ?? Number.NaN;
  const half = Math.floor(sorted.length / 2);
  return { median: sorted.length % 2 ? at(half) : (at(half - 1) + at(half)) / 2, min: at(0), max: at(sorted.length - 1) };
}

/** New ids each time, so that no round can profit from another. */
const randomIds = (model: Model, length: number) => Array.from({ length }, () => Math.floor(Math.random() * model.config.vocabularySize));

const attentionOf = (kind: string) => (kind === 'dense' ? { attention: 'dense' } : undefined);

/** Kinds in turn, the order reversed each round: neither always runs on what the other left warm. Round 0 is not counted. */
export async function interleave<Sample>(
  { kinds, rounds, onRound }: Pick<Plan, 'kinds' | 'rounds' | 'onRound'>,
  what: string,
  once: (kind: string) => Promise<Sample>,
): Promise<Map<string, Sample[]>> {
  const samples = new Map(kinds.map((kind): [string, Sample[]] => [kind, []]));
  for (let round = 0; round <= rounds; ++round)
    for (const kind of round % 2 ? kinds.toReversed() : kinds) {
      const sample = await once(kind);
      if (round > 0) samples.get(kind)?.push(sample);
      onRound(`${what}, ${kind}`);
    }
  return samples;
}

export async function measureSingles(model: Model, plan: Plan): Promise<SingleCase[]> {
  const cases: SingleCase[] = [];
  for (const promptTokens of plan.prompts) {
    const samples = await interleave(plan, `prompt of ${promptTokens}`, (kind) => single(model, kind, promptTokens, plan.generate));
    for (const [attention, rounds] of samples) {
      const pick = (value: (sample: (typeof rounds)[number]) => number) => summarize(rounds.map(value));
      cases.push({
        attention,
        promptTokens,
        prefill: pick((sample) => sample.prefill),
        decode: pick((sample) => sample.decode),
        seen: pick((sample) => sample.seen),
        firstTokenMs: pick((sample) => sample.firstTokenMs),
        cacheBytes: rounds.at(-1)?.cacheBytes ?? { keys: 0, values: 0, denseKeys: 0, denseValues: 0 },
      });
    }
  }
  return cases;
}

async function single(model: Model, kind: string, promptTokens: number, generate: number) {
  const session = await model.createSession(attentionOf(kind));
  try {
    const { usage, timings } = await session.complete(randomIds(model, promptTokens), { maxTokens: generate, ignoreEos: true });
    return {
      prefill: timings.promptTokensPerSecond,
      decode: timings.decodeTokensPerSecond,
      seen: seenRate(usage, timings) ?? Number.NaN,
      firstTokenMs: timings.timeToFirstTokenMs,
      cacheBytes: session.cacheBytes,
    };
  } finally {
    await session.close();
  }
}

/** `calls` must ascend: the engine only tells the largest batch so far. */
export async function measureBatches(model: Model, plan: Plan): Promise<BatchCase[]> {
  const cases: BatchCase[] = [];
  const promptTokens = plan.prompts[0] ?? 1;
  for (const calls of plan.calls) {
    const samples = await interleave(plan, `${calls} at once`, (kind) => batch(model, kind, calls, promptTokens, plan.generate));
    for (const [attention, rounds] of samples) {
      const steps = rounds.reduce((sum, sample) => sum + sample.steps, 0);
      const rows = rounds.reduce((sum, sample) => sum + sample.rows, 0);
      const aggregate = summarize(rounds.map((sample) => sample.aggregate));
      const { largestBatch } = model.stats;
      cases.push({
        attention,
        calls,
        promptTokens,
        aggregate,
        stepsPerRound: steps / rounds.length,
        rowsPerStep: rows / steps,
        largestBatch,
      });
    }
  }
  return cases;
}

async function batch(model: Model, kind: string, calls: number, promptTokens: number, generate: number) {
  const prompts = Array.from({ length: calls }, () => randomIds(model, promptTokens));
  const sessions = await Promise.all(prompts.map(() => model.createSession(attentionOf(kind))));
  try {
    const before = model.stats;
    const started = performance.now();
    const done = await Promise.all(
      sessions.map((session, i) => session.complete(prompts[i] ?? [], { maxTokens: generate, ignoreEos: true })),
    );
    const ms = performance.now() - started;
    const after = model.stats;
    const tokens = done.reduce((sum, { usage }) => sum + usage.completionTokens, 0);
    return { aggregate: (tokens * 1000) / ms, steps: after.steps - before.steps, rows: after.rows - before.rows };
  } finally {
    await Promise.all(sessions.map((session) => session.close()));
  }
}

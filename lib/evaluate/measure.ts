// Runs the units of a task under all kinds of attention. In: a prepared task, columns. Out: an outcome for each unit and kind; their cost.
import { abortError } from '../errors';
import type { Model } from '../model';
import type { CacheBytes } from '../session';
import { compareWindow, windowsAtOnce } from './agreement';
import type { Column } from './columns';
import type { Outcome } from './figures';
import type { CheckedOptions } from './options';
import { mapConcurrently, pagesOf, type Room } from './room';
import type { AttentionResult } from './types';
import type { PreparedTask, Unit } from './units';

/** Kinds of attention take turns after so many units: what else the machine does meets all of them alike. */
const unitsATurn = 64;

/** Under one kind of attention: [units] outcomes, and what they cost. */
export type Measured = Omit<AttentionResult, 'figures' | 'items'> & { outcomes: Outcome[] };

export interface Measurement {
  model: Model;
  columns: readonly Column[];
  options: CheckedOptions & { signal: AbortSignal };
  /** Called with the tokens of each unit done. */
  report(tokens: number): void;
}

/** Tokens of a unit. */
export const unitTokens = ({ sequences }: Unit) => sequences.reduce((sum, { ids }) => sum + ids.length, 0);

export function measure(task: PreparedTask, measurement: Measurement): Promise<Measured[]> {
  return task.form.kind === 'agreement' ? measureAgreement(task, measurement) : measureScores(task, measurement);
}

async function measureScores(task: PreparedTask, { columns, options, report }: Measurement): Promise<Measured[]> {
  const greedy = task.form.kind === 'word';
  const found = columns.map(({ scorer }) => ({ outcomes: [] as Outcome[], seconds: 0, before: structuredClone(scorer.effort) }));
  for (let start = 0; start < task.units.length; start += unitsATurn) {
    const turn = task.units.slice(start, start + unitsATurn);
    for (const [k, { scorer }] of columns.entries()) {
      const began = performance.now();
      const outcomes = await mapConcurrently(turn, options.concurrency, async (unit) => {
        if (options.signal.aborted) throw abortError(options.signal, 'the evaluation');
        const scores = await scorer.score(unit.sequences, greedy);
        report(unitTokens(unit));
        return { logLikelihoods: scores.map(({ logLikelihood }) => logLikelihood), greedy: scores[0]?.greedy };
      });
      const mine = found[k] as (typeof found)[number];
      mine.outcomes.push(...outcomes);
      mine.seconds += (performance.now() - began) / 1000;
    }
  }
  return columns.map(({ name, scorer }, k) => {
    const { outcomes, seconds, before } = found[k] as (typeof found)[number];
    const sequences = scorer.effort.sequences - before.sequences;
    const mean = (part: keyof CacheBytes) => (scorer.effort.cacheBytes[part] - before.cacheBytes[part]) / sequences;
    const cacheBytes = { keys: mean('keys'), values: mean('values'), denseKeys: mean('denseKeys'), denseValues: mean('denseValues') };
    return { attention: name, outcomes, seconds, cacheBytes, tokens: scorer.effort.tokens - before.tokens };
  });
}

/** All kinds of attention together, window by window: dense logits are computed once. */
async function measureAgreement(task: PreparedTask, { model, columns, options, report }: Measurement): Promise<Measured[]> {
  const dense = await model.createSession({ attention: 'dense' });
  try {
    const isReference = (column: Column) => column.name === 'dense' && column.model === model;
    const others = columns.filter((column) => !isReference(column));
    const sessions = [dense, ...others.map(({ scorer }) => scorer.empty)];
    const place = (column: Column) => (isReference(column) ? 0 : 1 + others.indexOf(column));
    const room = columns[0]?.room as Room;
    const compared = await mapConcurrently(task.units, Math.min(windowsAtOnce, options.concurrency), async (unit) => {
      const ids = unit.sequences[0]?.ids ?? new Int32Array(0);
      return room.with(pagesOf(ids.length) * sessions.length, async () => {
        if (options.signal.aborted) throw abortError(options.signal, 'the evaluation');
        const result = await compareWindow(ids, sessions, model.config.vocabularySize, options.signal);
        report(ids.length * columns.length);
        return result;
      });
    });
    const tokens = task.units.reduce((sum, unit) => sum + unitTokens(unit), 0);
    return columns.map((column) => ({
      attention: column.name,
      outcomes: compared.map(({ outcomes }) => outcomes[place(column)] as Outcome),
      tokens,
      cacheBytes: meanBytes(compared.map(({ cacheBytes }) => cacheBytes[place(column)] as CacheBytes)),
    }));
  } finally {
    await dense.close();
  }
}

function meanBytes(all: readonly CacheBytes[]): CacheBytes {
  const mean = (part: keyof CacheBytes) => all.reduce((sum, bytes) => sum + bytes[part], 0) / all.length;
  return { keys: mean('keys'), values: mean('values'), denseKeys: mean('denseKeys'), denseValues: mean('denseValues') };
}

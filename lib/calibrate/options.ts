// Options of a calibration, checked. In: what a caller gave. Out: complete options, or OPTION_INVALID naming the option.
import * as v from 'valibot';
import type { ModelConfig } from '../config';
import { ChaiError } from '../errors';
import { checked as checkedBy, count, flag, signal } from '../options';
import type { CalibrateOptions, CalibrationBudget } from './types';

/** Feature rows that a sequence can show before its membership is found (S + W <= 256). */
export const mostRows = 255;

const share = (least: number, most: number) => {
  const message = `expected a number from ${least} to ${most}`;
  return v.pipe(v.number(message), v.finite(message), v.minValue(least, message), v.maxValue(most, message));
};
const path = v.pipe(v.string('expected a path'), v.minLength(1, 'expected a path'));
const paths = v.pipe(v.array(path, 'expected a list of paths'), v.minLength(1, 'expected at least one path'));
const schema = v.strictObject({
  text: paths,
  samples: v.optional(count(1, 1 << 20), 1024),
  length: v.optional(count(3, 1 << 20)),
  warmupTokens: v.optional(count(1, mostRows), 5),
  warmupStart: v.optional(count(0, mostRows - 1), 0),
  clustering: v.optional(v.picklist(['kmeans', 'average-linkage-cosine'], "expected 'kmeans' or 'average-linkage-cosine'"), 'kmeans'),
  method: v.optional(v.picklist(['chai', 'chai-static'], "expected 'chai' or 'chai-static'"), 'chai'),
  budget: v.optional(
    v.union(
      [v.strictObject({ keyValueSaving: share(0, 1) }), v.strictObject({ perplexityIncrease: share(0, 1000) })],
      'expected { keyValueSaving } from 0 to 1, or { perplexityIncrease } from 0',
    ),
  ),
  clusters: v.optional(v.array(count(1, 1 << 16), 'expected a list of cluster counts, one a layer')),
  heldOut: v.optional(count(2, 1 << 20), 128),
  heldOutText: v.optional(paths),
  seed: v.optional(count(0, 2 ** 32 - 1), 0),
  addSpecialTokens: v.optional(flag, true),
  concurrency: v.optional(count(1, 256), 4),
  stateFile: v.optional(path),
  resume: v.optional(flag, false),
  keepState: v.optional(flag, false),
  signal,
  onProgress: v.optional(v.function('expected a function')),
});

export interface CheckedOptions {
  text: string[];
  samples: number;
  length: number;
  warmupTokens: number;
  warmupStart: number;
  clustering: 'kmeans' | 'average-linkage-cosine';
  method: 'chai' | 'chai-static';
  budget: CalibrationBudget | undefined;
  clusters: number[] | undefined;
  heldOut: number;
  heldOutText: string[] | undefined;
  seed: number;
  addSpecialTokens: boolean;
  concurrency: number;
  stateFile: string | undefined;
  resume: boolean;
  keepState: boolean;
  signal: AbortSignal | undefined;
  onProgress: CalibrateOptions['onProgress'];
}

/** What of a model bounds the options. */
export type Limits = Pick<ModelConfig, 'contextLength' | 'layers' | 'heads' | 'keyValueHeads'>;

export function checkOptions(options: unknown, { contextLength, layers, heads, keyValueHeads }: Limits): CheckedOptions {
  const given = checkedBy(schema, options, 'calibrate') as CheckedOptions;
  const checked = { ...given, length: given.length ?? Math.min(256, contextLength) };
  const { length, warmupStart, warmupTokens, budget } = checked;
  if (length > contextLength) throw invalid(`option length: ${length} tokens are more than the ${contextLength} a session may hold`);
  const warmup = warmupStart + warmupTokens;
  if (warmup > mostRows || warmup >= length)
    throw invalid(
      `warmupStart + warmupTokens is ${warmup}; it must be below length (${length}), and at most ${mostRows}: lower it, or raise length`,
    );
  if (budget && checked.heldOut < 4) throw invalid('option heldOut: a budget takes 4 windows or more, 2 to search and 2 to check');
  const most = (keyValueHeads - 1) / (2 * keyValueHeads);
  if (budget && 'keyValueSaving' in budget && budget.keyValueSaving > most + 1e-12)
    throw invalid(
      `a K/V saving of ${percent(budget.keyValueSaving)} cannot be met: with one cluster a layer this model saves ${percent(most)}, since values are kept`,
    );
  const { clusters } = checked;
  if (clusters && budget) throw invalid('options clusters and budget: counts are either given or searched for; leave one out');
  if (clusters && clusters.length !== layers)
    throw invalid(`option clusters: ${clusters.length} counts, but the model has ${layers} layers; give one count a layer`);
  if (clusters?.some((k) => k > heads))
    throw invalid(`option clusters: ${Math.max(...clusters)} clusters, but a layer has ${heads} heads; give at most so many`);
  for (const name of ['resume', 'keepState'] as const)
    if (checked[name] && checked.stateFile === undefined) throw invalid(`option ${name}: it takes a stateFile`);
  return checked;
}

const percent = (part: number) => `${Number((part * 100).toFixed(2))} %`;

function invalid(message: string): ChaiError {
  return new ChaiError('OPTION_INVALID', `calibrate: ${message}`);
}

// Options of an evaluation, checked. In: what a caller gave. Out: complete options, or OPTION_INVALID naming the option.
import * as v from 'valibot';
import { Model } from '../model';
import { checked, count, flag, signal } from '../options';
import { taskNames } from './formats';
import type { Compared, EvaluateOptions, EvaluationTask } from './types';

const taskSchema = v.strictObject({
  task: v.picklist(taskNames, `expected one of ${taskNames.join(', ')}`),
  file: v.pipe(v.string('expected a path'), v.minLength(1, 'expected a path')),
});
const attention = v.union(
  [v.string(), v.custom<object>((value) => typeof value === 'object' && value !== null)],
  'expected kinds of attention: "dense", "chai", "chai-static", paths of head plans or head plans',
);
/** A head plan is an object, too, but has no `attention`. */
const isCompared = (value: unknown) => typeof value === 'object' && value !== null && 'attention' in value;
const compared = v.strictObject({
  attention,
  name: v.optional(v.pipe(v.string('expected a text'), v.minLength(1, 'expected a text'))),
  model: v.optional(v.instance(Model, 'expected a loaded model')),
});
const schema = v.strictObject({
  tasks: v.pipe(v.array(taskSchema, 'expected a list of { task, file }'), v.minLength(1, 'expected at least one task')),
  compare: v.optional(
    v.pipe(
      v.array(
        v.lazy((value) => (isCompared(value) ? compared : attention)),
        'expected a list of kinds of attention',
      ),
      v.minLength(1, 'expected at least one kind of attention'),
    ),
    ['auto'],
  ),
  limit: v.optional(count(1, Number.MAX_SAFE_INTEGER)),
  seed: v.optional(count(0, 2 ** 32 - 1), 0),
  shots: v.optional(count(0, 100), 0),
  window: v.optional(count(2, 1 << 28)),
  stride: v.optional(count(1, 1 << 28)),
  addSpecialTokens: v.optional(flag, true),
  concurrency: v.optional(count(1, 4096), 16),
  details: v.optional(flag, false),
  signal,
  onProgress: v.optional(v.function('expected a function')),
  onTask: v.optional(v.function('expected a function')),
});

export interface CheckedOptions {
  tasks: EvaluationTask[];
  compare: Compared[];
  limit: number;
  seed: number;
  shots: number;
  window: number | undefined;
  stride: number | undefined;
  addSpecialTokens: boolean;
  concurrency: number;
  details: boolean;
  signal: AbortSignal | undefined;
  onProgress: EvaluateOptions['onProgress'];
  onTask: EvaluateOptions['onTask'];
}

export function checkOptions(options: unknown): CheckedOptions {
  const { limit, window, stride, signal, ...rest } = checked(schema, options, 'evaluate');
  const compare = rest.compare.map((one) => (isCompared(one) ? one : { attention: one }) as Compared);
  return { ...rest, compare, limit: limit ?? Number.POSITIVE_INFINITY, window, stride, signal } as CheckedOptions;
}

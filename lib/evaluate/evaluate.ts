// `evaluate`: tasks under several kinds of attention, side by side on the same items. In: a loaded model, tasks. Out: figures with errors.
import { onAbort } from '../cancel';
import { abortError, ChaiError, callerStack, messageOf, toChaiError } from '../errors';
import type { Model } from '../model';
import { checkModel } from '../options';
import { closeColumns, openColumns } from './columns';
import { figuresOf, type Outcome, scoredTokens } from './figures';
import { type Measured, measure, unitTokens } from './measure';
import { type CheckedOptions, checkOptions } from './options';
import type { EvaluateOptions, Evaluation, EvaluationProgress, TaskResult } from './types';
import { type PreparedTask, prepare, type Unit } from './units';

/**
 * Scores tasks under each kind of attention in `compare`, on the same items: perplexity of texts, multiple choice by log-likelihood, last
 * words, minimal pairs, agreement with dense. Rules: lm-evaluation-harness's, see `docs/evaluation.md`.
 * @throws {ChaiError} OPTION_INVALID (options; a file or a line of it, by name), PLAN_INVALID, OUT_OF_MEMORY, ABORTED, CLOSED
 */
export async function evaluate(model: Model, options: EvaluateOptions): Promise<Evaluation> {
  const stack = callerStack(evaluate);
  const inner = new AbortController();
  let release = () => {};
  try {
    checkModel(model, 'evaluate');
    const checked = checkOptions(options);
    const { signal } = checked;
    const abort = () => inner.abort(signal?.reason);
    if (signal?.aborted) abort();
    release = onAbort(signal, abort);
    return await run(model, { ...checked, signal: inner.signal });
  } catch (error) {
    throw toChaiError(inner.signal.aborted ? abortError(inner.signal, 'the evaluation') : error, stack);
  } finally {
    release();
  }
}

async function run(model: Model, options: CheckedOptions & { signal: AbortSignal }): Promise<Evaluation> {
  if (options.signal.aborted) throw abortError(options.signal, 'the evaluation');
  const columns = await openColumns(model, options);
  try {
    const tasks: PreparedTask[] = [];
    for (const task of options.tasks) {
      tell(options, { ...task, phase: 'reading', done: 0, total: 0 });
      tasks.push(await prepare(task, model, options));
    }
    const total = tasks.reduce((sum, { units }) => sum + units.reduce((all, unit) => all + unitTokens(unit), 0), 0) * columns.length;
    let done = 0;
    const results: TaskResult[] = [];
    for (const task of tasks) {
      const report = (tokens: number) => {
        done += tokens;
        tell(options, { phase: 'scoring', task: task.task, file: task.file, done, total });
      };
      const result = resultOf(task, await measure(task, { model, columns, options, report }), options);
      results.push(result);
      call('onTask', options.onTask, result);
    }
    return { tasks: results };
  } finally {
    await closeColumns(columns);
  }
}

const tell = ({ onProgress }: CheckedOptions, progress: EvaluationProgress) => call('onProgress', onProgress, progress);

function call<News>(name: string, listener: ((news: News) => void) | undefined, news: News): void {
  try {
    listener?.(news);
  } catch (error) {
    throw new ChaiError('OPTION_INVALID', `${name} threw: ${messageOf(error)}`, { cause: error });
  }
}

function resultOf(task: PreparedTask, measured: readonly Measured[], { details }: CheckedOptions): TaskResult {
  const dense = measured.find(({ attention }) => attention === 'dense');
  const { units, form: _, ...about } = task;
  return {
    ...about,
    items: units.length,
    truncated: units.filter(({ truncated }) => truncated).length,
    results: measured.map(({ outcomes, ...rest }) => ({
      ...rest,
      figures: figuresOf(task, outcomes, rest.attention === 'dense' || task.form.kind === 'agreement' ? undefined : dense?.outcomes),
      ...(details && { items: units.map((unit, i) => detail(unit, outcomes[i] as Outcome)) }),
    })),
  };
}

function detail({ line, gold, sequences }: Unit, { logLikelihoods, greedy }: Outcome) {
  return { line, gold, logLikelihoods, greedy, tokens: sequences.map((sequence) => scoredTokens([sequence])) };
}

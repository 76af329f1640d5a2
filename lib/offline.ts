// The offline phase as the public surface shows it. Its code is loaded when it is first called: a service that only generates never pays for it.
import type { CalibrateOptions, Calibration } from './calibrate/types';
import { ChaiError, reading } from './errors';
import type { EvaluateOptions, Evaluation } from './evaluate/types';
import { Model } from './model';

/**
 * Finds how many clusters each layer's heads form, and which heads belong together (CHAI, section 3; `docs/calibration.md`): the clustering
 * error of attention scores for k = 1..heads, averaged over samples, and its elbow; or, with a budget, the counts whose measured loss is
 * least. The plan serves 'chai' and 'chai-static'.
 * @throws {ChaiError} OPTION_INVALID (options; a file, by name), OUT_OF_MEMORY, ABORTED, CLOSED
 */
export async function calibrate(model: Model, options: CalibrateOptions): Promise<Calibration> {
  proveModel(model, 'calibrate');
  return (await import('./calibrate/calibrate.js')).calibrate(model, options);
}

/** A calibration as a self-contained HTML page titled with the model's `name`: nothing in it is fetched, no script runs. */
export async function calibrationPage(calibration: Calibration, name: string): Promise<string> {
  return (await import('./calibrate/report/page.js')).calibrationPage(calibration, name);
}

/**
 * Scores tasks under each kind of attention in `compare`, on the same items: perplexity of texts, multiple choice by log-likelihood, last
 * words, minimal pairs, agreement with dense. Rules: lm-evaluation-harness's, see `docs/evaluation.md`.
 * @throws {ChaiError} OPTION_INVALID (options; a file or a line of it, by name), PLAN_INVALID, OUT_OF_MEMORY, ABORTED, CLOSED
 */
export async function evaluate(model: Model, options: EvaluateOptions): Promise<Evaluation> {
  proveModel(model, 'evaluate');
  return (await import('./evaluate/evaluate.js')).evaluate(model, options);
}

function proveModel(model: unknown, where: string): void {
  if (!reading(where, () => model instanceof Model))
    throw new ChaiError('OPTION_INVALID', `${where}: the first argument must be a loaded model; await loadModel() first`);
}

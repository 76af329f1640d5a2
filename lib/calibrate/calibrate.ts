// `calibrate`: CHAI's offline phase. In: a loaded model, text. Out: a head plan, and what was measured on the way.

import { onAbort } from '../cancel';
import type { ModelConfig } from '../config';
import { abortError, ChaiError, callerStack, messageOf, toChaiError } from '../errors';
import type { Scored } from '../evaluate/encode';
import { roomOf } from '../evaluate/room';
import { estimate, type Samples } from '../evaluate/statistics';
import type { HeadPlan } from '../head_plan';
import type { Model } from '../model';
import { checkModel } from '../options';
import { Turn } from '../turn';
import { clusterHeads, representativesOf } from './clustering';
import { elbow } from './elbow';
import type { Gram } from './gram';
import { HeldOut, meanLoss, relativeIncrease } from './loss';
import { findMemberships, type LayerMembership, membershipTokens } from './membership';
import { type CheckedOptions, checkOptions, mostRows } from './options';
import { keyValueSaving, makePlan, type PlanLayer, staticSaving } from './plan';
import { sampleRows, type Work } from './room';
import { type Drawn, drawSamples } from './samples';
import { mostMeasurements, search } from './search';
import { fingerprintOf, State, unusable } from './state';
import { sweep } from './sweep';
import type { BudgetSearch, CalibrateOptions, Calibration, CalibrationProgress, MeasuredLoss, StaticRule } from './types';

const mostTrials = 64;

/**
 * Finds how many clusters each layer's heads form, and which heads belong together (CHAI, section 3; `docs/calibration.md`): the clustering
 * error of attention scores for k = 1..heads, averaged over samples, and its elbow; or, with a budget, the counts whose measured loss is
 * least; or with counts that are given. The plan serves 'chai' and 'chai-static'.
 * @throws {ChaiError} OPTION_INVALID (options; a file, by name), OUT_OF_MEMORY, ABORTED, CLOSED
 */
export async function calibrate(model: Model, options: CalibrateOptions): Promise<Calibration> {
  const stack = callerStack(calibrate);
  const inner = new AbortController();
  let release = () => {};
  try {
    checkModel(model, 'calibrate');
    const checked = checkOptions(options, model.config);
    const { signal } = checked;
    const abort = () => inner.abort(signal?.reason);
    if (signal?.aborted) abort();
    release = onAbort(signal, abort);
    if (inner.signal.aborted) throw abortError(inner.signal, 'the calibration');
    return await run(model, { ...checked, signal: inner.signal });
  } catch (error) {
    throw toChaiError(inner.signal.aborted ? abortError(inner.signal, 'the calibration') : error, stack);
  } finally {
    release();
  }
}

async function run(model: Model, options: CheckedOptions & { signal: AbortSignal }): Promise<Calibration> {
  const progress = new Progress(options);
  progress.report('reading', 0, options.text.join(', '));
  const drawn = await drawSamples(options, model);
  const state = await State.open(options.stateFile, options.resume, fingerprintOf(settings(options, model), drawn));
  const report = progress.report.bind(progress);
  const work: Work = { model, room: await roomOf(model), options, state, turn: new Turn(options.signal, 'the calibration'), report };
  await proveSameWeights(drawn, work);

  // Every second window: both halves are of the whole text.
  const guiding = (_: unknown, i: number) => options.budget !== undefined && i % 2 === 1;
  const guide = new HeldOut('guide', drawn.heldOut.filter(guiding), work, 'search');
  const judge = new HeldOut(
    options.budget ? 'judge' : 'judge of all',
    drawn.heldOut.filter((window, i) => !guiding(window, i)),
    work,
    'measuring',
  );
  const trial = new HeldOut('trial', trialWindows(drawn), work, 'measuring');
  const { config } = model;
  progress.expect('attention', drawn.samples.length * sampleRows(options.length, mostRows));
  progress.expect('search', options.budget ? guide.tokens * config.layers * Math.min(8, config.heads) : 0);
  progress.expect('membership', drawn.samples.length * membershipTokens(options));
  progress.expect('measuring', 2 * trial.tokens + judge.tokens * (options.budget ? 5 : options.clusters ? 4 : 3));

  const { errors, correlations, warmups } = await sweep(drawn.samples, work);
  const elbows = errors.map(elbow);
  const candidate = (counts: readonly number[]) => candidatePlan(counts, warmups, options, config);
  const searched = options.budget && (await searchCounts(elbows, guide, candidate, work, progress));
  const clusters = options.clusters ?? searched?.clusters ?? elbows;
  const memberships = await findMemberships(drawn.samples, clusters, warmups, work);
  const staticRule = await chooseStatic(memberships, trial, work);
  const layers = layersOf(memberships, staticRule);
  const losses = await measureLosses(layers, judge, work);
  if (options.budget || options.clusters) losses.push(await measureElbows(elbows, judge, candidate, work));
  await state.finish(options.keepState);
  return {
    plan: makePlan(layers, options, config),
    model: config,
    options: asUsed(options, drawn),
    text: { files: options.text, ...(options.heldOutText && { heldOutFiles: options.heldOutText }), windows: drawn.windows },
    layers: memberships.map((membership, i) => ({
      errors: errors[i] as number[],
      elbow: elbows[i] as number,
      clusters: clusters[i] as number,
      correlation: Array.from(correlations[i] as Float64Array),
      stability: membership.stability,
      sizes: membership.sizes,
      staticShare: membership[staticRule].share,
    })),
    losses,
    staticRule,
    ...(searched && { search: searched.report }),
  };
}

/** What results follow from, beside the tokens drawn. */
function settings(options: CheckedOptions, { config }: Model) {
  const { samples, length, warmupTokens, warmupStart, clustering, heldOut, seed, addSpecialTokens } = options;
  return { samples, length, warmupTokens, warmupStart, clustering, heldOut, seed, addSpecialTokens, config };
}

function asUsed(options: CheckedOptions, { samples, heldOut }: Drawn): Calibration['options'] {
  const { length, warmupTokens, warmupStart, clustering, seed, budget, clusters } = options;
  return {
    samples: samples.length,
    length,
    warmupTokens,
    warmupStart,
    clustering,
    heldOut: heldOut.length,
    seed,
    ...(budget && { budget }),
    ...(clusters && { clusters }),
  };
}

/** The loss of one window tells a model with other weights, which a state file does not name. */
async function proveSameWeights({ heldOut }: Drawn, work: Work): Promise<void> {
  const { state, options } = work;
  const window = new HeldOut(
    'probe',
    heldOut.slice(0, 1),
    { ...work, report: () => {}, state: await State.open(undefined, false, '') },
    'measuring',
  );
  const loss = meanLoss(await window.measure('dense', ''));
  const before = state.get<number>('probe');
  if (before !== undefined && !(Math.abs(before - loss) <= 1e-3 * Math.abs(loss)))
    throw unusable(options.stateFile as string, 'is of a model with other weights');
  state.keep('probe', loss);
}

async function searchCounts(
  elbows: readonly number[],
  guide: HeldOut,
  candidate: Candidate,
  work: Work,
  progress: Progress,
): Promise<{ clusters: number[]; report: BudgetSearch }> {
  const { model, options, turn } = work;
  const { config } = model;
  const budget = options.budget as NonNullable<CheckedOptions['budget']>;
  progress.expect('search', guide.tokens * (1 + mostMeasurements(config, elbows, budget)));
  const dense = meanLoss(await guide.measure('dense', 'dense'));
  const measure = async (clusters: readonly number[], detail: string) => meanLoss(await guide.measure(candidate(clusters), detail)) - dense;
  const { clusters, loss, layers } = await search(budget, elbows, { config, measure, turn });
  progress.finish('search');
  const report = { evaluations: guide.measured, increase: Math.expm1(loss), keyValueSaving: keyValueSaving(clusters, config), layers };
  return { clusters, report };
}

/** Samples on which kinds of static membership are compared: the held-out windows are for the results. */
function trialWindows({ samples }: Drawn): Scored[] {
  const every = Math.ceil(samples.length / mostTrials);
  return samples.filter((_, i) => i % every === 0).map((ids) => ({ ids, from: 1 }));
}

async function chooseStatic(memberships: readonly LayerMembership[], trial: HeldOut, work: Work): Promise<StaticRule> {
  const loss = async (rule: StaticRule) => {
    const plan = makePlan(layersOf(memberships, rule), { ...work.options, method: 'chai-static' }, work.model.config);
    return meanLoss(await trial.measure(plan, `chai-static, ${rule}`));
  };
  return (await loss('averaged')) < (await loss('median')) ? 'averaged' : 'median';
}

function layersOf(memberships: readonly LayerMembership[], rule: StaticRule): PlanLayer[] {
  return memberships.map((membership) => {
    const { clusterOf, representatives } = membership[rule];
    return { clusters: representatives.length, clusterOf, representatives };
  });
}

/** A plan of the wished method with any counts. */
type Candidate = (clusters: readonly number[]) => HeadPlan;

/** Memberships that are the same for all sequences are those of the averaged scores here: they are known for any count. */
function candidatePlan(clusters: readonly number[], warmups: readonly Gram[], options: CheckedOptions, config: ModelConfig): HeadPlan {
  const layers = clusters.map((count, layer): PlanLayer => {
    if (options.method === 'chai') return { clusters: count };
    const gram = warmups[layer] as Gram;
    const clusterOf = clusterHeads(gram, config.heads, count, options.clustering);
    return { clusters: count, clusterOf, representatives: representativesOf(gram, clusterOf, count) };
  });
  return makePlan(layers, options, config);
}

async function measureLosses(layers: PlanLayer[], judge: HeldOut, { model, options }: Work): Promise<MeasuredLoss[]> {
  const { config } = model;
  const clusters = layers.map((layer) => layer.clusters);
  const dense = await judge.measure('dense', 'dense');
  const online = layers.map((layer) => ({ clusters: layer.clusters }));
  const found = await judge.measure(makePlan(online, { ...options, method: 'chai' }, config), 'chai');
  const fixed = await judge.measure(makePlan(layers, { ...options, method: 'chai-static' }, config), 'chai-static');
  return [
    lossOf('dense', 0, dense, dense),
    lossOf('chai', keyValueSaving(clusters, config), found, dense),
    lossOf('chai-static', staticSaving(layers, config), fixed, dense),
  ];
}

async function measureElbows(elbows: readonly number[], judge: HeldOut, candidate: Candidate, { model }: Work): Promise<MeasuredLoss> {
  const dense = await judge.measure('dense', 'dense');
  return lossOf('elbow', keyValueSaving(elbows, model.config), await judge.measure(candidate(elbows), 'elbow'), dense);
}

function lossOf(name: string, saving: number, of: Samples, dense: Samples): MeasuredLoss {
  const { value: perplexity, standardError } = estimate(of);
  const increase = relativeIncrease(of, dense);
  return { name, keyValueSaving: saving, perplexity, standardError, increase: increase.value, increaseError: increase.standardError };
}

/** Sums up the phases. */
class Progress {
  readonly #expected = new Map<string, number>();
  readonly #done = new Map<string, number>();

  constructor(private readonly options: CheckedOptions) {}

  expect(phase: CalibrationProgress['phase'], tokens: number): void {
    this.#expected.set(phase, tokens);
  }

  /** A phase that took less than expected. */
  finish(phase: CalibrationProgress['phase']): void {
    this.#expected.set(phase, this.#done.get(phase) ?? 0);
  }

  report(phase: CalibrationProgress['phase'], tokens: number, detail: string): void {
    this.#done.set(phase, (this.#done.get(phase) ?? 0) + tokens);
    const sum = (counts: Map<string, number>) => [...counts.values()].reduce((all, count) => all + count, 0);
    const done = sum(this.#done);
    try {
      this.options.onProgress?.({ phase, done, total: Math.max(done, sum(this.#expected)), detail });
    } catch (error) {
      throw new ChaiError('OPTION_INVALID', `onProgress threw: ${messageOf(error)}`, { cause: error });
    }
  }
}

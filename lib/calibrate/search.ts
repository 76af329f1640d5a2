// Cluster counts that meet a budget. In: a budget, a way to measure loss. Out: counts of all layers, by measured losses alone.
//
// 1. Each layer alone is reduced to some counts (at most 8), and the loss measured: 8 L measurements.
// 2. Those losses, taken to add up, give the best counts for any saving (allocation.ts).
// 3. They do not quite add up, so candidates are measured whole: for a loss, the largest saving that meets it, by bisection (log2 of the K
//    slots measurements); for a saving, the one candidate.
// 4. Small exchanges that the prediction likes best are measured; those that are better are kept (at most 24 measurements).
import type { ModelConfig } from '../config';
import type { Turn } from '../turn';
import { allocate, type Choice, type Frontier, lossCurve } from './allocation';
import { savedSlots } from './plan';
import type { BudgetSearch, CalibrationBudget } from './types';

const mostRefinements = 24;
const mostFailures = 8; // one after the other

/** Nats a token above dense attention with these counts, measured. */
export type Measure = (clusters: readonly number[], detail: string) => Promise<number>;

export interface SearchResult {
  clusters: number[];
  /** Nats a token above dense, measured. */
  loss: number;
  layers: BudgetSearch['layers'];
}

/** Counts tried for a layer alone, none of them `heads`. */
export function countsToTry({ heads, keyValueHeads }: ModelConfig, elbow: number): number[] {
  const useful = Math.min(heads - 1, keyValueHeads - 1); // more clusters keep all keys: they save nothing
  const steps = [0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125].map((share) => Math.round(share * (useful + 1)));
  return [...new Set([elbow, ...steps, 1])].filter((k) => k >= 1 && k <= useful).sort((a, b) => b - a);
}

/** Measurements at most, for a prediction of the time it takes. */
export function mostMeasurements(config: ModelConfig, elbows: readonly number[], budget: CalibrationBudget): number {
  const alone = elbows.reduce((sum, elbow) => sum + countsToTry(config, elbow).length, 0);
  return alone + mostRefinements + ('perplexityIncrease' in budget ? Math.ceil(Math.log2(config.layers * config.keyValueHeads + 1)) : 1);
}

export async function search(
  budget: CalibrationBudget,
  elbows: readonly number[],
  { config, measure, turn }: { config: ModelConfig; measure: Measure; turn: Turn },
): Promise<SearchResult> {
  const { heads, keyValueHeads, layers: count } = config;
  const slots = 2 * keyValueHeads * count;
  const alone = await measureAlone(elbows, config, measure);
  const curves = alone.map((layer) =>
    lossCurve(
      layer.clusters.map((clusters, i) => ({ clusters, loss: layer.loss[i] as number })),
      heads,
    ),
  );
  const frontier = await allocate(
    curves.map((curve) => choices(curve, config)),
    turn,
  );
  if ('keyValueSaving' in budget) {
    const found = await forSaving(Math.ceil(budget.keyValueSaving * slots - 1e-9), frontier, measure);
    const better = (loss: number, best: number) => loss < best;
    return { ...(await refine(found, curves, { moves: exchanges(config), better, measure })), layers: alone };
  }
  const target = Math.log1p(budget.perplexityIncrease);
  const found = await forLoss(target, frontier, measure);
  const better = (loss: number) => loss <= target;
  return { ...(await refine(found, curves, { moves: reductions(config), better, measure })), layers: alone };
}

interface Found {
  clusters: number[];
  loss: number;
}

async function measureAlone(elbows: readonly number[], config: ModelConfig, measure: Measure): Promise<BudgetSearch['layers']> {
  const result: BudgetSearch['layers'] = [];
  for (const [layer, elbow] of elbows.entries()) {
    const tried = { clusters: countsToTry(config, elbow), loss: [] as number[] };
    for (const k of tried.clusters)
      tried.loss.push(
        await measure(
          elbows.map((_, other) => (other === layer ? k : config.heads)),
          `layer ${layer}, ${k} of ${config.heads} clusters`,
        ),
      );
    result.push(tried);
  }
  return result;
}

/** All counts of a layer that differ in what they save, the whole first. */
function choices(curve: readonly number[], config: ModelConfig): Choice[] {
  const clustered = curve.flatMap((loss, i) => {
    const saved = savedSlots(i + 1, config);
    return saved > 0 ? [{ clusters: i + 1, saved, loss }] : [];
  });
  return [{ clusters: config.heads, saved: 0, loss: 0 }, ...clustered.reverse()];
}

/** The least predicted loss that saves at least so many slots. */
async function forSaving(least: number, { losses, counts }: Frontier, measure: Measure): Promise<Found> {
  let best = least;
  for (let saved = least; saved < losses.length; ++saved) if ((losses[saved] as number) < (losses[best] as number)) best = saved;
  const clusters = counts(best);
  return { clusters, loss: await measure(clusters, 'the saving wished for') };
}

/** The largest saving whose measured loss is met, by bisection; dense at least. */
async function forLoss(target: number, { losses, counts }: Frontier, measure: Measure): Promise<Found> {
  let [low, high] = [0, losses.length];
  let found: Found = { clusters: counts(0), loss: 0 };
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    const clusters = counts(middle);
    const loss = await measure(clusters, `${middle} K slots less`);
    if (loss <= target) [low, found] = [middle, { clusters, loss }];
    else high = middle;
  }
  return found;
}

/** New counts of some layers. */
type Move = [layer: number, clusters: number][];
type Moves = (clusters: readonly number[]) => Move[];

async function refine(
  from: Found,
  curves: readonly number[][],
  { moves, better, measure }: { moves: Moves; better: (loss: number, best: number) => boolean; measure: Measure },
): Promise<Found> {
  const tried = new Set<string>();
  let best = from;
  for (let i = 0, failures = 0; i < mostRefinements && failures < mostFailures; ++i) {
    const next = likeliest(best.clusters, curves, moves, tried);
    if (!next) break;
    tried.add(next.join());
    const loss = await measure(next, `exchange ${i + 1}`);
    if (better(loss, best.loss)) {
      best = { clusters: next, loss };
      failures = 0;
    } else ++failures;
  }
  return best;
}

/** What the prediction likes best of all that was not tried yet. */
function likeliest(
  clusters: readonly number[],
  curves: readonly number[][],
  moves: Moves,
  tried: ReadonlySet<string>,
): number[] | undefined {
  const predicted = (layer: number, k: number) => curves[layer]?.[k - 1] as number;
  const gain = (move: Move) => move.reduce((sum, [layer, k]) => sum + predicted(layer, k) - predicted(layer, clusters[layer] as number), 0);
  const ranked = moves(clusters)
    .map((move) => ({ move, loss: gain(move) }))
    .sort((a, b) => a.loss - b.loss);
  for (const { move } of ranked) {
    const next = [...clusters];
    for (const [layer, k] of move) next[layer] = k;
    if (!tried.has(next.join())) return next;
  }
  return undefined;
}

/** One layer gives a step of clusters, another takes it: what is saved stays the same. */
function exchanges({ heads, keyValueHeads }: ModelConfig): Moves {
  const step = Math.max(1, Math.round(keyValueHeads / 16));
  return (clusters) =>
    clusters.flatMap((taker, i) => {
      const more = Math.min(taker, keyValueHeads) + step;
      if (more > keyValueHeads) return [];
      return clusters.flatMap((giver, j): Move[] => {
        const fewer = Math.min(giver, keyValueHeads) - step;
        if (i === j || fewer < 1) return [];
        return [
          [
            [i, more === keyValueHeads ? heads : more],
            [j, fewer],
          ],
        ];
      });
    });
}

/** One layer gives a cluster. */
function reductions({ keyValueHeads }: ModelConfig): Moves {
  return (clusters) =>
    clusters.flatMap((giver, j): Move[] => {
      const fewer = Math.min(giver, keyValueHeads) - 1;
      return fewer < 1 ? [] : [[[j, fewer]]];
    });
}

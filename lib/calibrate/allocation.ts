// Shares out clusters among layers so that predicted losses are least. In: a loss for each layer and k. Out: counts for any saving.
import type { Turn } from '../turn';

/** The best counts for every number of saved K slots. */
export interface Frontier {
  /** [saved slots] predicted loss, or infinity where that number cannot be reached. */
  losses: Float64Array;
  /** Cluster counts of all layers that save exactly this many slots. */
  counts(saved: number): number[];
}

/** One way to treat a layer. */
export interface Choice {
  clusters: number;
  saved: number;
  loss: number;
}

/**
 * Exact for losses that add up: a multiple-choice knapsack, filled layer by layer (dynamic programming; layers x slots x choices steps).
 * Among equals the first choice listed wins.
 */
export async function allocate(layers: readonly (readonly Choice[])[], turn: Turn): Promise<Frontier> {
  const most = layers.reduce((sum, choices) => sum + Math.max(...choices.map(({ saved }) => saved)), 0);
  let losses = new Float64Array(most + 1).fill(Number.POSITIVE_INFINITY);
  losses[0] = 0;
  const taken: Uint16Array[] = []; // [layers][saved slots] the choice of this layer
  for (const choices of layers) {
    const next = new Float64Array(most + 1).fill(Number.POSITIVE_INFINITY);
    const chosen = new Uint16Array(most + 1);
    for (const [i, { saved, loss }] of choices.entries()) {
      for (let slots = saved; slots <= most; ++slots) {
        const sum = (losses[slots - saved] as number) + loss;
        if (sum >= (next[slots] as number)) continue;
        next[slots] = sum;
        chosen[slots] = i;
      }
      await turn.over();
    }
    losses = next;
    taken.push(chosen);
  }
  const counts = (saved: number) => {
    let left = saved;
    const found: number[] = [];
    for (let layer = layers.length - 1; layer >= 0; --layer) {
      const choice = layers[layer]?.[taken[layer]?.[left] as number] as Choice;
      found.unshift(choice.clusters);
      left -= choice.saved;
    }
    return found;
  };
  return { losses, counts };
}

/**
 * Losses for every k from those measured at some: never falling as k falls (what a measurement says otherwise is its noise), 0 at `heads`,
 * straight lines between. [heads], entry k - 1.
 */
export function lossCurve(measured: readonly { clusters: number; loss: number }[], heads: number): number[] {
  const points = [{ clusters: heads, loss: 0 }];
  for (const { clusters, loss } of measured.toSorted((a, b) => b.clusters - a.clusters))
    points.push({ clusters, loss: Math.max(loss, points.at(-1)?.loss as number) });
  return Array.from({ length: heads }, (_, i) => {
    const k = i + 1;
    const below = points.findIndex(({ clusters }) => clusters <= k); // points fall in k
    const [low, high] = [points[below] ?? points.at(-1), points[Math.max(0, below - 1)]] as [Point, Point];
    if (low.clusters === k || below <= 0) return low.loss;
    return high.loss + ((low.loss - high.loss) * (high.clusters - k)) / (high.clusters - low.clusters);
  });
}

type Point = { clusters: number; loss: number };

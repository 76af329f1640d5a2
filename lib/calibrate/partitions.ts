// Comparing groupings of the same heads. In: clusters of heads. Out: agreement of two, the middle one of many.
import type { Turn } from '../turn';

/**
 * Adjusted Rand index (Hubert and Arabie, Comparing Partitions, 1985): 1 for the same grouping, 0 on average for independent ones of the
 * same sizes. Two groupings that leave no choice (all alone, all together) agree.
 */
export function adjustedRandIndex(a: readonly number[], b: readonly number[]): number {
  const pairs = (count: number) => (count * (count - 1)) / 2;
  const sizes = (labels: readonly (number | string)[]) => {
    const counts = new Map<number | string, number>();
    for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
    return [...counts.values()].reduce((sum, count) => sum + pairs(count), 0);
  };
  const together = sizes(a.map((cluster, i) => `${cluster} ${b[i]}`));
  const [ofA, ofB] = [sizes(a), sizes(b)];
  const expected = (ofA * ofB) / Math.max(1, pairs(a.length));
  const most = (ofA + ofB) / 2;
  return most === expected ? 1 : (together - expected) / (most - expected);
}

/** How often each grouping of one layer's heads came up, and each pair of heads together; bounded by the samples. */
export class PartitionCounts {
  readonly counts = new Map<string, number>();
  /** [heads x heads] samples in which two heads were together. */
  readonly #together: Float64Array;
  #total = 0;

  constructor(readonly heads: number) {
    this.#together = new Float64Array(heads * heads);
  }

  /** Samples counted. */
  get total(): number {
    return this.#total;
  }

  add(clusterOf: readonly number[], times = 1): void {
    const key = clusterOf.join(' ');
    this.counts.set(key, (this.counts.get(key) ?? 0) + times);
    this.#total += times;
    for (let a = 0; a < this.heads; ++a)
      for (let b = 0; b < this.heads; ++b) {
        const place = a * this.heads + b;
        if (clusterOf[a] === clusterOf[b]) this.#together[place] = (this.#together[place] as number) + times;
      }
  }

  /**
   * The most typical of the groupings seen: the one that agrees on most pairs of heads with all samples' (the median partition; Barthelemy
   * and Monjardet, 1981). It is the most frequent one wherever one dominates; with many heads hardly any comes up twice, and the most
   * frequent would be an accident. Ties go to the more frequent, then to the first seen.
   */
  async median(turn: Turn): Promise<number[]> {
    let best = { clusterOf: [] as number[], agreement: -1, times: 0 };
    for (const [key, times] of this.counts) {
      const clusterOf = key.split(' ').map(Number);
      const agreement = this.#agreement(clusterOf);
      const gain = agreement - best.agreement;
      if (gain > 0 || (gain === 0 && times > best.times)) best = { clusterOf, agreement, times };
      await turn.over();
    }
    return best.clusterOf;
  }

  /** Share of samples that had exactly this grouping. */
  share(clusterOf: readonly number[]): number {
    return (this.counts.get(clusterOf.join(' ')) ?? 0) / this.#total;
  }

  /** Pairs of heads on which a grouping agrees with the samples, summed over them. */
  #agreement(clusterOf: readonly number[]): number {
    let sum = 0;
    for (let a = 0; a < this.heads; ++a)
      for (let b = a + 1; b < this.heads; ++b) {
        const together = this.#together[a * this.heads + b] as number;
        sum += clusterOf[a] === clusterOf[b] ? together : this.#total - together;
      }
    return sum;
  }
}

// Gram matrices of the heads of one layer. In: inner products, row-major [heads x heads]. Out: distances, correlations.
// A feature vector is n softmax rows, so all heads' vectors have the same sum, n: correlation follows from inner products alone.

/** Inner products of all heads' feature vectors, row-major [heads x heads], symmetric. */
export type Gram = Float64Array;

export function at(gram: Gram, heads: number, a: number, b: number): number {
  return gram[a * heads + b] as number;
}

/** Entries of a feature vector of `rows` causal rows of which the first belongs to token `start`. */
export function featureLength(start: number, rows: number): number {
  return (rows * (2 * start + rows + 1)) / 2;
}

/** Adds to `sum` the Pearson correlation of every two heads' vectors of `length` entries; a vector without spread correlates with its like. */
export function addCorrelation(sum: Float64Array, gram: Gram, heads: number, rows: number, length: number): void {
  const mean = (rows * rows) / length; // length * (rows / length)^2
  for (let a = 0; a < heads; ++a)
    for (let b = a; b < heads; ++b) {
      const spread = Math.sqrt((at(gram, heads, a, a) - mean) * (at(gram, heads, b, b) - mean));
      const value = a === b || !(spread > 0) ? 1 : Math.max(-1, Math.min(1, (at(gram, heads, a, b) - mean) / spread));
      sum[a * heads + b] = (sum[a * heads + b] as number) + value;
      if (a !== b) sum[b * heads + a] = (sum[b * heads + a] as number) + value;
    }
}

/** What clusters are to heads: squared distances to every centre, [heads x clusters], the centre being the mean of the members. */
export function centreDistances(gram: Gram, clusterOf: readonly number[], clusters: number): Float64Array {
  const heads = clusterOf.length;
  const members = new Float64Array(clusters);
  for (const cluster of clusterOf) members[cluster] = (members[cluster] as number) + 1;
  const products = new Float64Array(heads * clusters); // of a head and a centre
  for (let head = 0; head < heads; ++head)
    for (let other = 0; other < heads; ++other) {
      const place = head * clusters + (clusterOf[other] as number);
      products[place] = (products[place] as number) + at(gram, heads, head, other);
    }
  for (let i = 0; i < products.length; ++i) products[i] = (products[i] as number) / Math.max(1, members[i % clusters] as number);
  const norms = new Float64Array(clusters); // of a centre with itself
  clusterOf.forEach((cluster, head) => {
    norms[cluster] = (norms[cluster] as number) + (products[head * clusters + cluster] as number) / (members[cluster] as number);
  });
  const distances = new Float64Array(heads * clusters);
  for (let head = 0; head < heads; ++head)
    for (let cluster = 0; cluster < clusters; ++cluster) {
      const place = head * clusters + cluster;
      const own = at(gram, heads, head, head);
      distances[place] = squared(own + (norms[cluster] as number) - 2 * (products[place] as number), own);
    }
  return distances;
}

export function headDistance(gram: Gram, heads: number, a: number, b: number): number {
  const own = at(gram, heads, a, a);
  return squared(own + at(gram, heads, b, b) - 2 * at(gram, heads, a, b), own);
}

/** A difference of inner products is wrong by some 1e-16 of them: less than that is none. */
function squared(difference: number, scale: number): number {
  return difference > 1e-14 * scale ? difference : 0;
}

/** Gram matrices of tokens S .. S + t - 1, as differences: rows are parts of a feature vector that do not overlap. */
export class Prefixes {
  constructor(
    private readonly grams: Float64Array,
    private readonly rows: readonly number[],
    private readonly start: number,
    private readonly layers: number,
    private readonly heads: number,
  ) {}

  of(layer: number, tokens: number): Float64Array {
    const gram = this.#at(layer, this.start + tokens).slice();
    if (this.start > 0) {
      const before = this.#at(layer, this.start);
      for (let i = 0; i < gram.length; ++i) gram[i] = (gram[i] as number) - (before[i] as number);
    }
    return gram;
  }

  #at(layer: number, row: number): Float64Array {
    const square = this.heads * this.heads;
    const first = (this.rows.indexOf(row) * this.layers + layer) * square;
    return this.grams.subarray(first, first + square);
  }
}

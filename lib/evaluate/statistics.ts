// Figures with their standard errors. In: one number and one weight a unit (an item, a window of text). Out: values, differences, errors.

/** What a figure is made of: the weighted mean sum(a) / sum(w) over the units, then a scale. */
export interface Samples {
  /** [units] what is averaged, summed within a unit. */
  sums: readonly number[];
  /** [units] how much each unit counts: 1 for an item, its tokens or bytes for a window. */
  weights: readonly number[];
  /** 'exponential': the figure is exp(mean), as perplexity is of nats a token. */
  scale: 'mean' | 'exponential';
}

export interface Estimate {
  value: number;
  /** One standard error; NaN below two units. Units are taken as independent, tokens within a unit are not. */
  standardError: number;
}

/** The value, and its standard error by linearisation (the delta method for a ratio of means; for equal weights that of a mean). */
export function estimate(samples: Samples): Estimate {
  return { value: figureOf(samples), standardError: spread(influences(samples)) };
}

/** a - b on the same units: what they have in common cancels (paired standard error). */
export function difference(a: Samples, b: Samples): Estimate {
  const [ofA, ofB] = [influences(a), influences(b)];
  return { value: figureOf(a) - figureOf(b), standardError: spread(ofA.map((value, i) => value - (ofB[i] ?? 0))) };
}

const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);

function figureOf({ sums, weights, scale }: Samples): number {
  const mean = total(sums) / total(weights);
  return scale === 'exponential' ? Math.exp(mean) : mean;
}

/** How far each unit moves the figure: slope * (a_i - mean * w_i) / sum(w). */
function influences(samples: Samples): number[] {
  const { sums, weights, scale } = samples;
  const all = total(weights);
  const mean = total(sums) / all;
  const slope = scale === 'exponential' ? Math.exp(mean) : 1;
  return sums.map((sum, i) => (slope * (sum - mean * (weights[i] ?? 0))) / all);
}

function spread(influence: readonly number[]): number {
  const n = influence.length;
  return n > 1 ? Math.sqrt((n / (n - 1)) * total(influence.map((value) => value * value))) : Number.NaN;
}

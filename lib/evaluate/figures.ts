// Figures of a task. In: units and what was found for each. Out: named samples, then values with errors and differences to dense.
import { difference, estimate, type Samples } from './statistics';
import type { Figure, FigureName } from './types';
import type { PreparedTask, Unit } from './units';

/** What one unit came to under one kind of attention. */
export interface Outcome {
  /** [continuations] nats. */
  logLikelihoods: number[];
  greedy?: boolean;
  /** Agreement only: positions with the same likeliest token, summed divergence in nats, positions. */
  same?: number;
  divergence?: number;
  positions?: number;
}

interface NamedSamples extends Samples {
  name: FigureName;
  higherIsBetter: boolean;
}

/** The differences are to `dense`, outcomes of the same units. */
export function figuresOf(task: PreparedTask, outcomes: readonly Outcome[], dense: readonly Outcome[] | undefined): Figure[] {
  const reference = dense && samplesOf(task, dense);
  return samplesOf(task, outcomes).map((samples, i) => ({
    name: samples.name,
    ...estimate(samples),
    higherIsBetter: samples.higherIsBetter,
    ...(reference?.[i] && { difference: difference(samples, reference[i]) }),
  }));
}

function samplesOf({ form, units }: PreparedTask, outcomes: readonly Outcome[]): NamedSamples[] {
  const ones = units.map(() => 1);
  const share = (name: FigureName, right: (unit: Unit, outcome: Outcome) => boolean): NamedSamples => {
    const sums = outcomes.map((outcome, i) => Number(right(units[i] as Unit, outcome)));
    return { name, sums, weights: ones, scale: 'mean', higherIsBetter: true };
  };
  switch (form.kind) {
    case 'choices':
      return [
        share('accuracy', ({ gold }, { logLikelihoods }) => bestOf(logLikelihoods) === gold),
        share('accuracyPerCharacter', ({ gold, characters }, { logLikelihoods }) => bestOf(divided(logLikelihoods, characters)) === gold),
        share('accuracyPerByte', ({ gold, bytes }, { logLikelihoods }) => bestOf(divided(logLikelihoods, bytes)) === gold),
      ];
    case 'word':
      return [share('accuracy', (_, { greedy }) => greedy === true), ...negative('perplexity', outcomes, ones, 'exponential')];
    case 'perplexity': {
      const tokens = units.map(({ sequences }) => scoredTokens(sequences));
      const bits = units.map(({ bytes }) => (bytes[0] ?? 0) * Math.LN2);
      return [
        ...negative('perplexity', outcomes, tokens, 'exponential'),
        ...negative('natsPerToken', outcomes, tokens, 'mean'),
        ...negative('bitsPerByte', outcomes, bits, 'mean'),
      ];
    }
    case 'agreement': {
      const positions = outcomes.map((outcome) => outcome.positions ?? 0);
      const sums = (pick: (outcome: Outcome) => number | undefined) => outcomes.map((outcome) => pick(outcome) ?? 0);
      return [
        { name: 'topOneAgreement', sums: sums(({ same }) => same), weights: positions, scale: 'mean', higherIsBetter: true },
        { name: 'meanDivergence', sums: sums(({ divergence }) => divergence), weights: positions, scale: 'mean', higherIsBetter: false },
      ];
    }
  }
}

function negative(name: FigureName, outcomes: readonly Outcome[], weights: number[], scale: Samples['scale']): NamedSamples[] {
  return [{ name, sums: outcomes.map(({ logLikelihoods }) => -(logLikelihoods[0] ?? 0)), weights, scale, higherIsBetter: false }];
}

export const scoredTokens = (sequences: Unit['sequences']) => sequences.reduce((sum, { ids, from }) => sum + ids.length - from, 0);

const divided = (values: readonly number[], by: readonly number[]) => values.map((value, i) => value / (by[i] ?? 1));

/** Index of the largest; of equal ones the lowest, as numpy's argmax. */
function bestOf(values: readonly number[]): number {
  return values.reduce((best, value, i) => (value > (values[best] as number) ? i : best), 0);
}

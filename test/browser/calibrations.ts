// Made-up calibrations of any size for tests of the report. In: layers, heads, whether a budget was met. Out: a Calibration.
import type { Calibration } from '../../lib/calibrate/types';
import { randomNumbers } from '../../lib/evaluate/random';

export function madeUp(layerCount: number, heads: number, budget: boolean): Calibration {
  const random = randomNumbers(layerCount * 1000 + heads);
  const layers = Array.from({ length: layerCount }, (_, i) =>
    layerOf(heads, 1 + Math.floor((heads - 1) * (1 - i / layerCount) ** 2), random),
  );
  const clustersOf = (k: number) => Array.from({ length: heads }, (_, head) => (head < k ? head : Math.floor(random() * k)));
  const loss = (name: string, keyValueSaving: number, increase: number) => ({
    ...{ name, keyValueSaving, increase, increaseError: increase / 7 },
    ...{ perplexity: 12.3456 * (1 + increase), standardError: 0.4321 },
  });
  return {
    plan: {
      format: 'chai-llm/head-plan@1',
      method: 'chai',
      layers: layers.map(({ clusters }) => ({ clusters, clusterOf: clustersOf(clusters) })),
    },
    model: {
      ...{ architecture: 'llama', layers: layerCount, heads, keyValueHeads: heads, headDim: 128, slidingWindow: 0 },
      ...{ hiddenSize: 128 * heads, intermediateSize: 344 * heads, vocabularySize: 32000, contextLength: 4096, trainedContextLength: 4096 },
    },
    options: {
      ...{ samples: 1024, length: 256, warmupTokens: 5, warmupStart: 0, clustering: 'kmeans', heldOut: 128, seed: 0 },
      ...(budget && { budget: { perplexityIncrease: 0.02 } }),
    },
    text: { files: ['c4.jsonl.gz'], windows: 123456 },
    layers,
    staticRule: 'median',
    losses: [
      loss('dense', 0, 0),
      loss('chai', 0.2137, 0.0123),
      loss('chai-static', 0.2137, 0.0345),
      ...(budget ? [loss('elbow', 0.31, 0.08)] : []),
    ],
    ...(budget && {
      search: {
        ...{ evaluations: 301, increase: 0.0199, keyValueSaving: 0.2137 },
        layers: layers.map(() => {
          const clusters = [...new Set([0.875, 0.5, 0.25].map((share) => Math.max(1, Math.round(share * heads))))];
          return { clusters, loss: clusters.map((k) => (0.05 * (heads - k) * random()) / heads) };
        }),
      },
    }),
  };
}

function layerOf(heads: number, clusters: number, random: () => number): Calibration['layers'][number] {
  const correlation = Array.from({ length: heads * heads }, () => 1.2 * random() - 0.2);
  for (let a = 0; a < heads; ++a)
    for (let b = 0; b <= a; ++b) correlation[a * heads + b] = a === b ? 1 : (correlation[b * heads + a] as number);
  const rest = clusters > 1 ? (0.4 * heads) / (clusters - 1) : 0;
  return {
    errors: Array.from({ length: heads }, (_, i) => (i === heads - 1 ? 0 : 7 * Math.exp(-i / (1 + heads / 6)) * (1 - i / heads))),
    elbow: Math.max(1, Math.round(clusters * 0.7)),
    clusters,
    correlation,
    stability: Array.from({ length: 32 }, (_, t) => 1 - (0.9 * (31 - t)) / 31 + (t < 31 ? 0.05 * random() : 0)),
    sizes: Array.from({ length: clusters }, (_, rank) => (rank === 0 ? heads - rest * (clusters - 1) : rest)),
    staticShare: 0.5,
  };
}

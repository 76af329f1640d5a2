// The offline phase of CHAI (Agarwal et al. 2024, section 3): clustering errors for every k. In: samples. Out: means over them, a layer each.
import { averageLinkage, type ClusteringMethod, clusterHeads, clusteringError } from './clustering';
import { addCorrelation, featureLength, type Gram, Prefixes } from './gram';
import { mostRows } from './options';
import { GramReader, inOrder, sampleRows, type Work } from './room';
import { packed, unpacked, unusable } from './state';

export interface Sweep {
  /** [layers][heads] clustering error for k = 1..heads, mean over samples. */
  errors: number[][];
  /** [layers][heads x heads] Pearson correlation of the heads' scores, mean over samples. */
  correlations: Float64Array[];
  /** [layers] inner products of the warm-up features (tokens S .. S + W - 1), mean over samples. */
  warmups: Gram[];
}

interface Sums {
  samples: number;
  /** [layers x heads] */
  errors: Float64Array;
  /** [layers x heads x heads] */
  correlations: Float64Array;
  warmups: Float64Array;
}

type Saved = { [Field in keyof Sums]: Sums[Field] extends number ? number : string };

const name = 'sweep';

export async function sweep(samples: readonly Int32Array[], work: Work): Promise<Sweep> {
  const { options, model, state } = work;
  const { layers, heads } = model.config;
  const { warmupStart, warmupTokens } = options;
  const all = sampleRows(options.length, mostRows);
  const rows = [...new Set([...(warmupStart > 0 ? [warmupStart] : []), warmupStart + warmupTokens, all])];
  const sums = load(work, samples.length);
  work.report('attention', sums.samples * all, '');
  const reader = await GramReader.open(work, all);
  try {
    for await (const found of inOrder(samples, sums.samples, options.concurrency, (ids) => reader.read(ids, rows))) {
      const whole = new Prefixes(found, rows, 0, layers, heads);
      const warmup = new Prefixes(found, rows, warmupStart, layers, heads);
      for (let layer = 0; layer < layers; ++layer) {
        const gram = whole.of(layer, all);
        await addErrors(part(sums.errors, layer, layers), gram, heads, work);
        addCorrelation(part(sums.correlations, layer, layers), gram, heads, all, featureLength(0, all));
        add(part(sums.warmups, layer, layers), warmup.of(layer, warmupTokens));
      }
      ++sums.samples;
      work.report('attention', all, `sample ${sums.samples} of ${samples.length}`);
      await state.set(name, () => save(sums), sums.samples === samples.length);
    }
  } finally {
    await reader.close();
  }
  const means = (values: Float64Array) =>
    Array.from({ length: layers }, (_, layer) => part(values, layer, layers).map((value) => value / samples.length));
  const errors = means(sums.errors).map((values) => Array.from(values));
  return { errors, correlations: means(sums.correlations), warmups: means(sums.warmups) };
}

/** One layer's numbers among those of all. */
function part(values: Float64Array, layer: number, layers: number): Float64Array {
  const size = values.length / layers;
  return values.subarray(layer * size, (layer + 1) * size);
}

function add(sums: Float64Array, values: Float64Array): void {
  for (let i = 0; i < sums.length; ++i) sums[i] = (sums[i] as number) + (values[i] as number);
}

/** Adds the clustering error for every k. */
async function addErrors(sums: Float64Array, gram: Gram, heads: number, { options: { clustering }, turn }: Work): Promise<void> {
  const stages = clustering === 'kmeans' ? undefined : averageLinkage(gram, heads, 1);
  for (let clusters = 1; clusters < heads; ++clusters) {
    // At k = heads every head is its own centre: the error is 0.
    const clusterOf = stages?.[clusters - 1] ?? clusterHeads(gram, heads, clusters, clustering as ClusteringMethod);
    sums[clusters - 1] = (sums[clusters - 1] as number) + clusteringError(gram, clusterOf, clusters);
    await turn.over();
  }
}

function save({ samples, errors, correlations, warmups }: Sums): Saved {
  return { samples, errors: packed(errors), correlations: packed(correlations), warmups: packed(warmups) };
}

function load({ state, options, model }: Work, most: number): Sums {
  const { layers, heads } = model.config;
  const saved = state.get<Saved>(name);
  const read = (text: unknown, count: number) => (saved ? unpacked(String(text), count) : new Float64Array(count));
  const errors = read(saved?.errors, layers * heads);
  const correlations = read(saved?.correlations, layers * heads * heads);
  const warmups = read(saved?.warmups, layers * heads * heads);
  const samples = saved?.samples ?? 0;
  if (!errors || !correlations || !warmups || !(samples <= most)) throw unusable(options.stateFile as string, 'is damaged');
  return { samples, errors, correlations, warmups };
}

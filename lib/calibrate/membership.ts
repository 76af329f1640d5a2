// What sequences would find online: memberships from their first tokens. In: samples, cluster counts. Out: typical memberships, stability.
import { clusterHeads, representativesOf } from './clustering';
import { type Gram, Prefixes } from './gram';
import { adjustedRandIndex, PartitionCounts } from './partitions';
import { GramReader, inOrder, type Work } from './room';
import { packed, unpacked, unusable } from './state';

/** Tokens over which stability is looked at, and samples that are: each costs as many clusterings as tokens. */
export const stabilityTokens = 32;
const stabilitySamples = 256;

/** One membership for all sequences. */
export interface StaticMembership {
  clusterOf: number[];
  /** The member of each cluster with the least mean squared distance to the centre, over all samples. */
  representatives: number[];
  /** Share of samples whose own membership is exactly this. */
  share: number;
}

export interface LayerMembership {
  /** The median of the memberships found, and the clusters of the heads' inner products averaged over samples. */
  median: StaticMembership;
  averaged: StaticMembership;
  /** [tokens] mean agreement with the membership of all these tokens. */
  stability: number[];
  /** [clusters] mean sizes, the largest first. */
  sizes: number[];
}

const part = 'membership';

interface Sums {
  samples: number;
  /** [layers] */
  partitions: PartitionCounts[];
  /** [layers x tokens] */
  stability: Float64Array;
}

interface Saved {
  samples: number;
  partitions: [string, number][][];
  stability: string;
}

/** Feature rows looked at, from token S on. */
export function stabilityRows({ length, warmupStart }: { length: number; warmupStart: number }): number {
  return Math.min(stabilityTokens, Math.min(length, 255) - warmupStart);
}

/** Tokens of each sample that are computed. */
export function membershipTokens(options: { length: number; warmupStart: number; warmupTokens: number }): number {
  return options.warmupStart + Math.max(options.warmupTokens, stabilityRows(options));
}

/** `grams`: [layers] inner products of the warm-up features, mean over samples. */
export async function findMemberships(
  samples: readonly Int32Array[],
  clusters: readonly number[],
  grams: readonly Gram[],
  work: Work,
): Promise<LayerMembership[]> {
  const { heads } = work.model.config;
  const { warmupStart, warmupTokens, concurrency } = work.options;
  const tokens = stabilityRows(work.options);
  const sums = load(clusters, tokens, work, samples.length);
  const wanted = [...Array.from({ length: tokens }, (_, i) => warmupStart + i + 1), warmupStart + warmupTokens];
  const rows = [...new Set([...(warmupStart > 0 ? [warmupStart] : []), ...wanted])].sort((a, b) => a - b);
  const all = membershipTokens(work.options);
  work.report('membership', sums.samples * all, '');
  const reader = await GramReader.open(work, all);
  try {
    for await (const found of inOrder(samples, sums.samples, concurrency, (ids) => reader.read(ids, rows))) {
      await addSample(sums, new Prefixes(found, rows, warmupStart, clusters.length, heads), clusters, work);
      work.report('membership', all, `sample ${sums.samples} of ${samples.length}`);
      await work.state.set(part, () => save(sums, clusters), sums.samples === samples.length);
    }
  } finally {
    await reader.close();
  }
  const found: LayerMembership[] = [];
  for (const [layer, count] of clusters.entries()) found.push(await typical(sums, layer, grams, count, work));
  return found;
}

async function addSample(sums: Sums, prefixes: Prefixes, clusters: readonly number[], work: Work): Promise<void> {
  const { options, turn, model } = work;
  const { heads } = model.config;
  const { clustering, warmupTokens } = options;
  const tokens = sums.stability.length / clusters.length;
  for (const [layer, count] of clusters.entries()) {
    const clusterOf = clusterHeads(prefixes.of(layer, warmupTokens), heads, count, clustering);
    (sums.partitions[layer] as PartitionCounts).add(clusterOf);
    await turn.over();
    if (sums.samples >= stabilitySamples) continue;
    const found = (t: number) => clusterHeads(prefixes.of(layer, t), heads, count, clustering);
    const last = found(tokens);
    for (let t = 1; t <= tokens; ++t) {
      const agreement = count === 1 || count === heads ? 1 : adjustedRandIndex(found(t), last); // no choice, no doubt
      const place = layer * tokens + t - 1;
      sums.stability[place] = (sums.stability[place] as number) + agreement;
      await turn.over();
    }
  }
  ++sums.samples;
}

async function typical(sums: Sums, layer: number, grams: readonly Gram[], clusters: number, work: Work): Promise<LayerMembership> {
  const { model, turn, options } = work;
  const { heads } = model.config;
  const partitions = sums.partitions[layer] as PartitionCounts;
  const gram = grams[layer] as Gram;
  const of = (clusterOf: number[]) => ({
    clusterOf,
    representatives: representativesOf(gram, clusterOf, clusters),
    share: partitions.share(clusterOf),
  });
  const tokens = sums.stability.length / sums.partitions.length;
  const seen = Math.min(sums.samples, stabilitySamples);
  return {
    median: of(await partitions.median(turn)),
    averaged: of(clusterHeads(gram, heads, clusters, options.clustering)),
    stability: Array.from(sums.stability.subarray(layer * tokens, (layer + 1) * tokens), (sum) => sum / seen),
    sizes: meanSizes(partitions, clusters),
  };
}

function meanSizes({ counts, total }: PartitionCounts, clusters: number): number[] {
  const sums = new Array<number>(clusters).fill(0);
  for (const [key, times] of counts) {
    const sizes = new Array<number>(clusters).fill(0);
    for (const cluster of key.split(' ')) sizes[Number(cluster)] = (sizes[Number(cluster)] as number) + 1;
    sizes
      .sort((a, b) => b - a)
      .forEach((size, rank) => {
        sums[rank] = (sums[rank] as number) + (size * times) / total;
      });
  }
  return sums;
}

const partName = (clusters: readonly number[]) => `${part} ${clusters.join(' ')}`;

function save({ samples, partitions, stability }: Sums, clusters: readonly number[]): Saved & { clusters: string } {
  return {
    clusters: partName(clusters),
    samples,
    partitions: partitions.map(({ counts }) => [...counts]),
    stability: packed(stability),
  };
}

function load(clusters: readonly number[], tokens: number, { model, state, options }: Work, most: number): Sums {
  const { heads } = model.config;
  const partitions = clusters.map(() => new PartitionCounts(heads));
  const saved = state.get<Saved & { clusters: string }>(part);
  if (saved?.clusters !== partName(clusters)) return { samples: 0, partitions, stability: new Float64Array(clusters.length * tokens) };
  const stability = unpacked(String(saved.stability), clusters.length * tokens);
  for (const [layer, counts] of (Array.isArray(saved.partitions) ? saved.partitions : []).entries())
    for (const [key, times] of Array.isArray(counts) ? counts : []) partitions[layer]?.add(String(key).split(' ').map(Number), times);
  if (!stability || !(saved.samples <= most) || partitions.some(({ total }) => total !== saved.samples))
    throw unusable(options.stateFile as string, 'is damaged');
  return { samples: saved.samples, partitions, stability };
}

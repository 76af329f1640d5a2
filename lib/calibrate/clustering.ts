// Groups heads as the engine does (native/clustering.cpp), from Gram matrices. In: inner products, k. Out: clusters, representatives, error.
// Deterministic: ties go to the lowest index, no cluster is empty, clusters are numbered by their lowest member.
import type { NativePlan } from '../binding';
import { at, centreDistances, type Gram, headDistance } from './gram';

export type ClusteringMethod = NativePlan['clustering'];

const lloydRounds = 20;

/** [heads] cluster of each head, for one k. */
export function clusterHeads(gram: Gram, heads: number, clusters: number, method: ClusteringMethod): number[] {
  return method === 'kmeans' ? kmeans(gram, heads, clusters) : (averageLinkage(gram, heads, clusters)[0] as number[]);
}

/** Sum of squared distances to the own centre (Agarwal et al. 2024, section 3: the clustering error). */
export function clusteringError(gram: Gram, clusterOf: readonly number[], clusters: number): number {
  const distances = centreDistances(gram, clusterOf, clusters);
  return clusterOf.reduce((sum, cluster, head) => sum + (distances[head * clusters + cluster] as number), 0);
}

/** For each cluster its member nearest the centre. Distances within 1e-5 of the least are equal: the two of a pair always are. */
export function representativesOf(gram: Gram, clusterOf: readonly number[], clusters: number): number[] {
  const distances = centreDistances(gram, clusterOf, clusters);
  return Array.from({ length: clusters }, (_, cluster) => {
    const of = (head: number) => distances[head * clusters + cluster] as number;
    const members = clusterOf.flatMap((own, head) => (own === cluster ? [head] : []));
    const least = Math.min(...members.map(of));
    return members.find((head) => of(head) <= least * (1 + 1e-5)) as number;
  });
}

/** Numbers clusters by their lowest member. */
export function renumbered(clusterOf: readonly number[]): number[] {
  const seen = new Map<number, number>();
  return clusterOf.map((cluster) => {
    const known = seen.get(cluster);
    if (known !== undefined) return known;
    seen.set(cluster, seen.size);
    return seen.size - 1;
  });
}

/** Farthest-first start from head 0, then at most 20 Lloyd rounds. */
function kmeans(gram: Gram, heads: number, clusters: number): number[] {
  const first = farthestFirst(gram, heads, clusters);
  let clusterOf: number[] | undefined;
  for (let round = 0; round < lloydRounds; ++round) {
    const centres = clusterOf && centreDistances(gram, clusterOf, clusters);
    const distance = (head: number, cluster: number) =>
      centres ? (centres[head * clusters + cluster] as number) : headDistance(gram, heads, head, first[cluster] as number);
    const next = nearestCentres(heads, clusters, distance);
    fillEmpty(next.clusterOf, next.distances, clusters);
    if (clusterOf?.every((cluster, head) => cluster === next.clusterOf[head])) break;
    clusterOf = next.clusterOf;
  }
  return renumbered(clusterOf as number[]);
}

/** Head 0, then again and again the head farthest from its nearest chosen one. */
function farthestFirst(gram: Gram, heads: number, clusters: number): number[] {
  const nearest = new Array<number>(heads).fill(Number.POSITIVE_INFINITY);
  const chosen: number[] = [];
  for (let next = 0; chosen.length < clusters; next = nearest.indexOf(Math.max(...nearest))) {
    chosen.push(next);
    for (let head = 0; head < heads; ++head) nearest[head] = Math.min(nearest[head] as number, headDistance(gram, heads, head, next));
  }
  return chosen;
}

function nearestCentres(heads: number, clusters: number, distance: (head: number, cluster: number) => number) {
  const clusterOf = new Array<number>(heads).fill(0);
  const distances = new Array<number>(heads).fill(Number.POSITIVE_INFINITY);
  for (let head = 0; head < heads; ++head)
    for (let cluster = 0; cluster < clusters; ++cluster) {
      const found = distance(head, cluster);
      if (found >= (distances[head] as number)) continue;
      distances[head] = found;
      clusterOf[head] = cluster;
    }
  return { clusterOf, distances };
}

/** An empty cluster takes the head farthest from its own centre, never the only member of another cluster. */
function fillEmpty(clusterOf: number[], distances: number[], clusters: number): void {
  const members = new Array<number>(clusters).fill(0);
  for (const cluster of clusterOf) members[cluster] = (members[cluster] as number) + 1;
  for (let cluster = 0; cluster < clusters; ++cluster) {
    if ((members[cluster] as number) > 0) continue;
    let farthest = -1;
    clusterOf.forEach((own, head) => {
      if ((members[own] as number) > 1 && (farthest < 0 || (distances[head] as number) > (distances[farthest] as number))) farthest = head;
    });
    const left = clusterOf[farthest] as number;
    members[left] = (members[left] as number) - 1;
    clusterOf[farthest] = cluster;
    distances[farthest] = 0;
    members[cluster] = 1;
  }
}

/**
 * Merges the two clusters of least mean cosine distance, again and again. Out: the clusters at `least`, `least` + 1, ..., heads of them: one
 * run of merges passes through all.
 */
export function averageLinkage(gram: Gram, heads: number, least: number): number[][] {
  const between = cosineDistances(gram, heads); // sums over pairs; a cluster goes by its lowest member
  const members = new Array<number>(heads).fill(1);
  let clusterOf = Array.from({ length: heads }, (_, head) => head);
  const stages = [clusterOf];
  for (let left = heads; left > least; --left) {
    const [first, second] = nearestPair(between, members);
    for (let other = 0; other < heads; ++other) {
      const sum = at(between, heads, first, other) + at(between, heads, second, other);
      between[first * heads + other] = sum;
      between[other * heads + first] = sum;
    }
    members[first] = (members[first] as number) + (members[second] as number);
    members[second] = 0;
    clusterOf = clusterOf.map((cluster) => (cluster === second ? first : cluster));
    stages.unshift(clusterOf);
  }
  return stages.map(renumbered);
}

function nearestPair(between: Float64Array, members: readonly number[]): [number, number] {
  const heads = members.length;
  let pair: [number, number] = [-1, -1];
  let least = Number.POSITIVE_INFINITY;
  for (let a = 0; a < heads; ++a)
    for (let b = a + 1; b < heads; ++b) {
      const pairs = (members[a] as number) * (members[b] as number);
      if (pairs === 0 || at(between, heads, a, b) / pairs >= least) continue;
      least = at(between, heads, a, b) / pairs;
      pair = [a, b];
    }
  return pair;
}

function cosineDistances(gram: Gram, heads: number): Float64Array {
  const distances = new Float64Array(heads * heads);
  for (let a = 0; a < heads; ++a)
    for (let b = a + 1; b < heads; ++b) {
      const norms = Math.sqrt(at(gram, heads, a, a) * at(gram, heads, b, b));
      const found = norms === 0 ? (at(gram, heads, a, a) === at(gram, heads, b, b) ? 0 : 1) : 1 - at(gram, heads, a, b) / norms;
      distances[a * heads + b] = found;
      distances[b * heads + a] = found;
    }
  return distances;
}

// What the accuracy study compares with dense attention. In: a head plan (one K/V budget). Out: variants: a name, a plan, how much they tell.
import { randomNumbers } from '../../dist/evaluate/random.js';

const shuffled = (items, random) => {
  const left = [...items];
  for (let i = left.length - 1; i > 0; --i) {
    const at = Math.floor(random() * (i + 1));
    [left[i], left[at]] = [left[at], left[i]];
  }
  return left;
};
const range = (length) => Array.from({ length }, (_, i) => i);

export const countsOf = (plan) => plan.layers.map(({ clusters, clusterOf }) => clusters ?? Math.max(...clusterOf) + 1);
const total = (counts) => counts.reduce((sum, count) => sum + count, 0);
const isStatic = (plan) => plan.layers.every(({ clusterOf }) => clusterOf);

const withCounts = (plan, counts) => ({ ...plan, method: 'chai', layers: counts.map((clusters) => ({ clusters })) });

/** The same number of clusters in all, spread over the layers by chance: each at least 1 and at most all heads. */
export function randomCounts(plan, heads, seed) {
  const random = randomNumbers(seed);
  const counts = plan.layers.map(() => 1);
  for (let left = total(countsOf(plan)) - counts.length; left > 0; --left) {
    const open = range(counts.length).filter((layer) => counts[layer] < heads);
    counts[open[Math.floor(random() * open.length)]] += 1;
  }
  return counts;
}

/** The same number of clusters in all, spread as evenly as it goes; what is left over goes to the first layers. */
export function evenCounts(plan) {
  const counts = countsOf(plan);
  const [each, rest] = [Math.floor(total(counts) / counts.length), total(counts) % counts.length];
  return counts.map((_, layer) => each + (layer < rest ? 1 : 0));
}

/** Clusters as large as they may be, members and representatives by chance: what the choice of members is worth. */
export function randomMembership(plan, heads, seed) {
  const random = randomNumbers(seed);
  const layers = countsOf(plan).map((clusters) => {
    const clusterOf = new Array(heads);
    const order = shuffled(range(heads), random);
    for (const [i, head] of order.entries()) clusterOf[head] = i < clusters ? i : Math.floor(random() * clusters);
    const representatives = range(clusters).map(
      (cluster) =>
        shuffled(
          range(heads).filter((head) => clusterOf[head] === cluster),
          random,
        )[0],
    );
    return { clusters, clusterOf, representatives };
  });
  return { ...plan, method: 'chai-static', layers };
}

/** The static clusters with one value head each, too: what the paper's CHAI-QKV does (its table 4). */
export function sharedValues(plan) {
  const layers = plan.layers.map(({ clusterOf, representatives, clusters }, layer) => {
    const stands = representatives ?? range(clusters).map((cluster) => clusterOf.indexOf(cluster));
    const map = {
      ...{ scoresFrom: layer, scoreOfQuery: clusterOf, queryOfScore: stands, keyOfScore: range(stands.length), keptKeys: stands },
      ...{ valueOfQuery: clusterOf, keptValues: stands },
    };
    return { map };
  });
  return { ...plan, method: 'explicit', layers };
}

/**
 * The variants of one budget. `family` groups them over budgets; `tier` orders them by what they tell: 0 the method, 1 controls,
 * 2 its settings, 3 the rest. Those of family 'drop' have no plan: drop_heads.mjs makes them.
 */
export function variantsOf(budget, plan, { heads, keyValueHeads, warmups, starts, seeds }) {
  const list = [];
  const add = (tier, family, name, made, about) => list.push({ budget, tier, family, name: `${budget} ${name}`, plan: made, about });
  const online = { ...plan, method: 'chai' };
  const { warmupTokens = 5, warmupStart = 0, clustering = 'kmeans' } = plan;
  add(0, 'CHAI', 'CHAI', online, `clusters found online, ${clustering}, W = ${warmupTokens}, start ${warmupStart}`);
  if (isStatic(plan))
    add(0, 'CHAI-static', 'CHAI-static', { ...plan, method: 'chai-static' }, 'the same clusters for all texts, chosen in calibration');
  if (heads === keyValueHeads) {
    add(1, 'drop', 'heads dropped, least needed', undefined, 'no more bytes saved, by whole heads: those whose loss alone costs least');
    add(1, 'drop-random', 'heads dropped, random', undefined, 'no more bytes saved, by whole heads drawn by chance');
  }
  for (const seed of seeds)
    add(
      1,
      'random members',
      `random members ${seed}`,
      randomMembership(plan, heads, seed),
      'the same cluster counts, members drawn by chance',
    );
  const counts = JSON.stringify(countsOf(plan));
  for (const seed of seeds) {
    const drawn = randomCounts(plan, heads, seed);
    if (JSON.stringify(drawn) !== counts)
      add(
        1,
        'random counts',
        `random counts ${seed}`,
        withCounts(plan, drawn),
        'as many clusters in all, spread over the layers by chance',
      );
  }
  const even = evenCounts(plan);
  if (JSON.stringify(even) !== counts)
    add(1, 'even counts', 'even counts', withCounts(plan, even), 'as many clusters in all, the same in each layer');
  const other = clustering === 'kmeans' ? 'average-linkage-cosine' : 'kmeans';
  add(2, 'other clustering', other, { ...online, clustering: other }, 'the other way to cluster');
  for (const tokens of warmups)
    if (tokens !== warmupTokens) add(2, 'warm-up', `W = ${tokens}`, { ...online, warmupTokens: tokens }, 'tokens that tell the clusters');
  for (const start of starts)
    if (start !== warmupStart) add(2, 'start', `start ${start}`, { ...online, warmupStart: start }, 'the first of these tokens');
  if (isStatic(plan)) {
    const lowest = plan.layers.map(({ clusters, clusterOf }) => ({ clusters, clusterOf }));
    add(
      3,
      'lowest representative',
      'CHAI-static, lowest head',
      { ...plan, method: 'chai-static', layers: lowest },
      'the lowest member stands for its cluster',
    );
    if (heads === keyValueHeads)
      add(
        3,
        'shared values',
        'values shared too',
        sharedValues(plan),
        'static clusters with one value head each: fewer bytes, so no like budget',
      );
  }
  return list;
}

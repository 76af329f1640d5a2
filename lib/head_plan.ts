// Head plans: head-plan.json or an object -> checked -> the numbers the engine takes. In: the `attention` option. Out: a NativePlan.
import * as v from 'valibot';
import type { NativeConfig, NativePlan, NativePlanLayer } from './binding';
import { ChaiError, reading } from './errors';
import { readTextFile } from './json_file';

export type { LayerHeads } from './binding';

const index = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(1 << 16));
const positive = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1 << 16));
const indexes = v.pipe(v.array(index), v.maxLength(4096));

const layerHeadsSchema = v.strictObject({
  scoresFrom: index,
  scoreOfQuery: indexes,
  queryOfScore: indexes,
  keyOfScore: indexes,
  keptKeys: indexes,
  valueOfQuery: indexes,
  keptValues: indexes,
});

const layerSchema = v.object({
  /** k: clusters of this layer's query heads. */
  clusters: v.optional(positive),
  /** CHAI-static: cluster of each query head. */
  clusterOf: v.optional(indexes),
  /** CHAI-static: query head that stands for each cluster; default: its lowest member. */
  representatives: v.optional(indexes),
  /** Most distinct key heads the representatives may use (grouped-query models). */
  keyHeads: v.optional(positive),
  /** Method explicit: the resolved tables. */
  map: v.optional(layerHeadsSchema),
});

const planSchema = v.object({
  format: v.literal('chai-llm/head-plan@1'),
  /** What 'auto' does with this plan: find members for each sequence, take those of the plan, or take its tables. */
  method: v.picklist(['chai', 'chai-static', 'explicit']),
  /** W: tokens whose attention decides which heads belong together; default 5. */
  warmupTokens: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(256)), 5),
  /** S: the first of these tokens; default 0. Put it behind what all requests begin with. S + W <= 256. */
  warmupStart: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(255)), 0),
  /** How heads are grouped for each sequence; default 'kmeans'. */
  clustering: v.optional(v.picklist(['kmeans', 'average-linkage-cosine']), 'kmeans'),
  /** Heads are parted into so many groups of neighbours that no cluster crosses; default 1. */
  headGroups: v.optional(positive, 1),
  /** The shape of the model that it was made for; another one is refused. */
  model: v.optional(
    v.object({
      layers: v.optional(positive),
      heads: v.optional(positive),
      keyValueHeads: v.optional(positive),
      headDim: v.optional(positive),
    }),
  ),
  /** One entry a layer. */
  layers: v.pipe(v.array(layerSchema), v.minLength(1), v.maxLength(4096)),
});

/**
 * What a model prescribes for all layers' heads; the content of head-plan.json.
 * @interface
 */
export type HeadPlan = v.InferInput<typeof planSchema>;
/**
 * One layer of a head plan: `clusters` for 'chai', `clusterOf` for 'chai-static', `map` for 'explicit'.
 * @interface
 */
export type HeadPlanLayer = v.InferInput<typeof layerSchema>;
type CheckedPlan = v.InferOutput<typeof planSchema>;

/** How a session attends: by the model's head plan when it has one ('auto'), by a named method of it, or by a plan or a path to one. */
export type Attention = 'auto' | 'dense' | 'chai' | 'chai-static' | HeadPlan | (string & {});

/**
 * Reads a head plan file and checks its form; whether it fits a model shows when the model is loaded with it.
 * @throws {ChaiError} PLAN_INVALID, OPTION_INVALID
 */
export async function readHeadPlan(path: string): Promise<HeadPlan> {
  if (typeof path !== 'string') throw new ChaiError('OPTION_INVALID', `readHeadPlan: the path must be a string, not ${typeof path}`);
  return readPlan(path, noSuchFile(path));
}

async function readPlan(path: string, missing: string): Promise<CheckedPlan> {
  const text = await readTextFile(path).catch((error) => {
    throw new ChaiError('PLAN_INVALID', (error as Error).message, { cause: error });
  });
  if (text === undefined) throw invalid(missing);
  try {
    return checkHeadPlan(JSON.parse(text), path);
  } catch (error) {
    if (error instanceof ChaiError) throw error;
    throw invalid(`${path} is not valid JSON: ${(error as Error).message}`);
  }
}

const noSuchFile = (path: string) => `there is no ${path}; make one with \`chai-llm calibrate\``;
/** Rather one of the words with a letter wrong than a path. */
const isWord = (text: string) => !/[\\/.]/.test(text);
const noSuchWord = (word: string) =>
  `attention '${word}' is none of 'auto', 'dense', 'chai' and 'chai-static', nor the path of a head plan; \`chai-llm calibrate\` makes one`;

/** Proves the form of a plan: types and ranges that hold for any model. */
function checkHeadPlan(value: unknown, where: string): CheckedPlan {
  const result = reading(where, () => v.safeParse(planSchema, value));
  if (!result.success) {
    const issue = result.issues[0];
    const field = v.getDotPath(issue);
    throw invalid(`${where}: ${field ? `${field}: ` : ''}${issue.message}`);
  }
  const plan = result.output;
  if (plan.warmupStart + plan.warmupTokens > 256) throw invalid(`${where}: warmupStart + warmupTokens must be at most 256`);
  return plan;
}

/** `modelPlan`: path of the model's own head-plan.json, if any. */
export async function resolveAttention(attention: Attention, config: NativeConfig, modelPlan: string | undefined): Promise<NativePlan> {
  if (attention === 'dense' || (attention === 'auto' && modelPlan === undefined)) return densePlan(config);
  if (typeof attention === 'object') return nativePlan(checkHeadPlan(attention, 'attention'), config, 'attention');
  const method = attention === 'chai' ? 'chai' : attention === 'chai-static' ? 'chai-static' : undefined;
  const path = method || attention === 'auto' ? modelPlan : attention;
  if (path === undefined)
    throw invalid(`attention '${attention}' needs a head plan, and the model has no head-plan.json; make one with \`chai-llm calibrate\``);
  const plan = await readPlan(path, isWord(path) ? noSuchWord(path) : noSuchFile(path));
  return nativePlan(method ? { ...plan, method } : plan, config, path);
}

function densePlan({ layers, heads }: NativeConfig): NativePlan {
  const each = Array.from({ length: layers }, () => ({ clusters: heads, keyHeads: 0 }));
  return { method: 'dense', warmupTokens: 5, warmupStart: 0, clustering: 'kmeans', headGroups: 1, layers: each };
}

/** Proves that a plan fits a model, and gives each layer what its method needs. */
function nativePlan(plan: CheckedPlan, config: NativeConfig, where: string): NativePlan {
  for (const field of ['layers', 'heads', 'keyValueHeads', 'headDim'] as const) {
    const expected = plan.model?.[field];
    if (expected !== undefined && expected !== config[field])
      throw invalid(`${where}: made for a model with ${field} ${expected}, but this one has ${config[field]}`);
  }
  if (plan.layers.length !== config.layers) throw invalid(`${where}: has ${plan.layers.length} layers, but the model has ${config.layers}`);
  const layers = plan.layers.map((layer, i) => nativeLayer(layer, plan.method, config, `${where}: layers.${i}`));
  const { method, warmupTokens, warmupStart, clustering, headGroups } = plan;
  return { method, warmupTokens, warmupStart, clustering, headGroups, layers };
}

function nativeLayer(
  layer: CheckedPlan['layers'][number],
  method: CheckedPlan['method'],
  config: NativeConfig,
  where: string,
): NativePlanLayer {
  const clusters = layer.clusters ?? (layer.clusterOf && layer.clusterOf.length > 0 ? Math.max(...layer.clusterOf) + 1 : undefined);
  switch (method) {
    case 'explicit':
      if (!layer.map) throw invalid(`${where}: method 'explicit' needs a map`);
      return { clusters: 1, keyHeads: 0, map: layer.map };
    case 'chai':
      if (clusters === undefined) throw invalid(`${where}: method 'chai' needs clusters`);
      if (clusters > config.heads) throw invalid(`${where}.clusters: ${clusters}, but the model has ${config.heads} heads`);
      return { clusters, keyHeads: layer.keyHeads ?? 0 };
    case 'chai-static':
      return staticLayer(layer, clusters, config, where);
  }
}

function staticLayer(layer: HeadPlanLayer, clusters: number | undefined, config: NativeConfig, where: string): NativePlanLayer {
  const { clusterOf } = layer;
  if (!clusterOf || clusters === undefined)
    throw invalid(`${where}: method 'chai-static' needs clusterOf; \`chai-llm calibrate\` writes it`);
  if (clusterOf.length !== config.heads)
    throw invalid(`${where}.clusterOf: ${clusterOf.length} entries, but the model has ${config.heads} heads`);
  const lowest = Array.from({ length: clusters }, (_, cluster) => clusterOf.indexOf(cluster));
  const empty = lowest.indexOf(-1);
  if (empty >= 0) throw invalid(`${where}.clusterOf: no head is in cluster ${empty}`);
  if (clusterOf.some((cluster) => cluster >= clusters))
    throw invalid(`${where}.clusterOf: names a cluster beyond the ${clusters} of this layer`);
  const representatives = layer.representatives ?? lowest;
  if (representatives.length !== clusters)
    throw invalid(`${where}.representatives: ${representatives.length} entries, but the layer has ${clusters} clusters`);
  if (representatives.some((head) => head >= config.heads))
    throw invalid(`${where}.representatives: names a head beyond the model's ${config.heads}`);
  const stranger = representatives.findIndex((head, cluster) => clusterOf[head] !== cluster);
  if (stranger >= 0)
    throw invalid(`${where}.representatives.${stranger}: head ${representatives[stranger]} is not a member of cluster ${stranger}`);
  return { clusters, keyHeads: 0, clusterOf, representatives };
}

function invalid(message: string): ChaiError {
  return new ChaiError('PLAN_INVALID', message);
}

// What a model directory holds and will take, without loading it. In: a directory. Out: numbers for people and programs.
import { type ElementType, type NativeConfig, type NativeDevice, type NativePlan, native } from './binding';
import { describeConfig, type ModelConfig, readArchitecture } from './config';
import { ChaiError, callerStack, toChaiError } from './errors';
import { type HeadPlan, readHeadPlan, resolveAttention } from './head_plan';
import { cacheBytesPerToken, elementSize, weightBytes } from './memory_budget';
import { findModelFiles } from './model_files';
import { Tokenizer } from './tokenizer';

/** @interface */
export type Device = NativeDevice;

/** What a model is, known without loading it. */
export interface ModelInfo {
  directory: string;
  /** The network's shape. */
  config: ModelConfig;
  /** Numbers in the tensors that this library loads; tied ones count once. */
  parameters: number;
  /** Bytes of these tensors, and their element types. */
  weightBytes: number;
  weightTypes: string[];
  weightBytesByType: Partial<Record<ElementType, number>>;
  /** Paths of the weight files. */
  files: string[];
  hasChatTemplate: boolean;
  /** The content of head-plan.json, where there is one. */
  headPlan?: HeadPlan;
  /** Tokens that attend with all heads before membership is known, under the head plan: `tokens` of them after the first `start`. */
  warmup?: { start: number; tokens: number };
  /** Bytes of K/V cache a token takes, at full head count and under the head plan (once membership is known). */
  cacheBytesPerToken: Record<ElementType, { dense: number; clustered?: number }>;
}

/**
 * Devices this build can name, and why those that cannot be used cannot. GPUs are not opened for it (`freeBytes` is then what
 * `nvidia-smi` would say), but where the driver's management library (NVML) is missing: there each keeps some hundred MB of its memory
 * until the process ends.
 * @throws {ChaiError} ADDON_UNAVAILABLE
 */
export function devices(): Device[] {
  return native.devices();
}

/**
 * Reads the small files and the tensor tables only.
 * @throws {ChaiError} OPTION_INVALID, MODEL_NOT_FOUND, MODEL_INVALID, UNSUPPORTED_MODEL, PLAN_INVALID
 */
export async function inspectModel(directory: string): Promise<ModelInfo> {
  const stack = callerStack(inspectModel);
  try {
    if (typeof directory !== 'string' || directory === '')
      throw new ChaiError('OPTION_INVALID', 'inspectModel: the argument must be the path of a model directory');
    return await inspect(directory);
  } catch (error) {
    throw toChaiError(error, stack);
  }
}

async function inspect(directory: string): Promise<ModelInfo> {
  const files = await findModelFiles(directory);
  const architecture = readArchitecture(files);
  const { config } = architecture;
  const tensors = [...Object.values(architecture.weights), ...architecture.layers.flatMap((layer) => Object.values(layer))];
  const unique = [...new Map(tensors.map((tensor) => [`${tensor.file}:${tensor.offset}`, tensor])).values()];
  const types = [...new Set(unique.map(({ type }) => type))];
  const headPlan = files.headPlan === undefined ? undefined : await readHeadPlan(files.headPlan);
  const plan = headPlan && (await resolveAttention(headPlan, config, undefined));
  const kept = plan && keptShare(plan, config);
  const perToken = (type: ElementType) => {
    const dense = cacheBytesPerToken(config, type);
    return kept === undefined ? { dense } : { dense, clustered: dense * kept };
  };
  return {
    directory,
    config: describeConfig(architecture, files),
    parameters: unique.reduce((sum, { rows, columns }) => sum + rows * columns, 0),
    weightBytes: weightBytes(tensors),
    weightTypes: types,
    weightBytesByType: Object.fromEntries(types.map((type) => [type, weightBytes(unique.filter((tensor) => tensor.type === type))])),
    files: files.weightFiles,
    hasChatTemplate: new Tokenizer(files).hasChatTemplate,
    headPlan,
    warmup: plan?.method === 'chai' ? { start: plan.warmupStart, tokens: plan.warmupTokens } : undefined,
    cacheBytesPerToken: Object.fromEntries(
      (Object.keys(elementSize) as ElementType[]).map((type) => [type, perToken(type)]),
    ) as ModelInfo['cacheBytesPerToken'],
  };
}

/** Share of the dense K/V cache that a plan reserves. */
function keptShare(plan: NativePlan, { heads, keyValueHeads }: NativeConfig): number {
  const keyHead = (query: number) => Math.floor(query / (heads / keyValueHeads));
  let slots = 0;
  for (const { map, representatives, clusters, keyHeads } of plan.layers) {
    if (map) slots += map.keptKeys.length + map.keptValues.length;
    else if (representatives) slots += new Set(representatives.map(keyHead)).size + keyValueHeads;
    else slots += Math.min(clusters, keyHeads || keyValueHeads, keyValueHeads) + keyValueHeads;
  }
  return slots / (2 * keyValueHeads * plan.layers.length);
}

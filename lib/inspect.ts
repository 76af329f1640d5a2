// What a model directory holds and will take, without loading it. In: a directory. Out: numbers for people and programs.
import { type ElementType, type NativeDevice, native } from './binding';
import { describeConfig, type ModelConfig, readArchitecture } from './config';
import { type HeadPlan, readHeadPlan } from './head_plan';
import { cacheBytesPerToken, elementSize, weightBytes } from './memory_budget';
import { findModelFiles } from './model_files';
import { Tokenizer } from './tokenizer';

export type Device = NativeDevice;

export interface ModelInfo {
  directory: string;
  config: ModelConfig;
  parameters: number;
  /** Bytes of the tensors this library loads, and their element types. */
  weightBytes: number;
  weightTypes: string[];
  files: string[];
  hasChatTemplate: boolean;
  headPlan?: HeadPlan;
  /** Bytes of K/V cache a token takes, at full head count and under the head plan (once membership is known). */
  cacheBytesPerToken: Record<ElementType, { dense: number; clustered?: number }>;
}

/** Devices this build can name, and why those that cannot be used cannot. */
export function devices(): Device[] {
  return native.devices();
}

/** Reads the small files and the tensor tables only. */
export async function inspectModel(directory: string): Promise<ModelInfo> {
  const files = await findModelFiles(directory);
  const architecture = readArchitecture(files);
  const { config } = architecture;
  const tensors = [...Object.values(architecture.weights), ...architecture.layers.flatMap((layer) => Object.values(layer))];
  const unique = new Map(tensors.map((tensor) => [`${tensor.file}:${tensor.offset}`, tensor]));
  const headPlan = files.headPlan === undefined ? undefined : await readHeadPlan(files.headPlan);
  const kept = headPlan && keptKeyShare(headPlan, config.keyValueHeads);
  const perToken = (type: ElementType) => {
    const dense = cacheBytesPerToken(config, type);
    return kept === undefined ? { dense } : { dense, clustered: (dense / 2) * (1 + kept) };
  };
  return {
    directory,
    config: describeConfig(architecture, files),
    parameters: [...unique.values()].reduce((sum, { rows, columns }) => sum + rows * columns, 0),
    weightBytes: weightBytes(tensors),
    weightTypes: [...new Set(tensors.map(({ type }) => type))],
    files: files.weightFiles,
    hasChatTemplate: new Tokenizer(files).hasChatTemplate,
    headPlan,
    cacheBytesPerToken: Object.fromEntries(
      (Object.keys(elementSize) as ElementType[]).map((type) => [type, perToken(type)]),
    ) as ModelInfo['cacheBytesPerToken'],
  };
}

/** Share of the dense K cache that a plan reserves. */
function keptKeyShare(plan: HeadPlan, keyValueHeads: number): number {
  const kept = plan.layers.map(
    (layer) => layer.map?.keptKeys.length ?? Math.min(layer.clusters ?? keyValueHeads, layer.keyHeads ?? keyValueHeads, keyValueHeads),
  );
  return kept.reduce((sum, count) => sum + count, 0) / (kept.length * keyValueHeads);
}

// config.json -> the network's shape and weight positions, by architecture. In: model files. Out: an Architecture, or UNSUPPORTED_MODEL.
import type { Architecture } from './architectures/architecture';
import { llama } from './architectures/llama';
import { opt } from './architectures/opt';
import { ChaiError } from './errors';
import { Fields } from './fields';
import type { ModelFiles } from './model_files';

const architectures: Record<string, (files: ModelFiles, contextLength?: number) => Architecture> = { llama, mistral: llama, opt };

/** The shape of a model as users see it. */
export interface ModelConfig {
  architecture: string;
  layers: number;
  heads: number;
  keyValueHeads: number;
  headDim: number;
  hiddenSize: number;
  intermediateSize: number;
  vocabularySize: number;
  /** Tokens a session may hold. */
  contextLength: number;
  /** Tokens the model was trained for. */
  trainedContextLength: number;
  slidingWindow: number;
}

/** `contextLength` overrides the trained one, which it must not exceed. Refuses what is not supported before any memory is taken. */
export function readArchitecture(files: ModelFiles, contextLength?: number): Architecture {
  const fields = new Fields(files.config);
  const build = Object.hasOwn(architectures, fields.text('model_type')) ? architectures[fields.text('model_type')] : undefined;
  if (!build) throw fields.unsupported('model_type', Object.keys(architectures));
  if (fields.isSet('quantization_config')) throw fields.unsupported('quantization_config', []);
  if (fields.isSet('num_local_experts', 0, 1)) throw fields.unsupported('num_local_experts', []);
  const trained = trainedContextLength(fields);
  if (contextLength !== undefined && contextLength > trained)
    throw new ChaiError('OPTION_INVALID', `contextLength ${contextLength} is more than the ${trained} tokens the model was made for`);
  return build(files, contextLength);
}

function trainedContextLength(fields: Fields): number {
  return fields.count('max_position_embeddings', 2048);
}

export function describeConfig(architecture: Architecture, files: ModelFiles): ModelConfig {
  const { config } = architecture;
  return {
    architecture: architecture.name,
    layers: config.layers,
    heads: config.heads,
    keyValueHeads: config.keyValueHeads,
    headDim: config.headDim,
    hiddenSize: config.hiddenSize,
    intermediateSize: config.intermediateSize,
    vocabularySize: config.vocabularySize,
    contextLength: config.contextLength,
    trainedContextLength: trainedContextLength(new Fields(files.config)),
    slidingWindow: config.slidingWindow,
  };
}

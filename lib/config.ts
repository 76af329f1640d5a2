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
  /** 'llama', 'mistral' or 'opt'. */
  architecture: string;
  layers: number;
  /** Query heads of a layer. */
  heads: number;
  /** Key and value heads of a layer; fewer than `heads` with grouped queries. */
  keyValueHeads: number;
  /** Numbers in one head's query, key or value. */
  headDim: number;
  hiddenSize: number;
  /** Width of the feed-forward block. */
  intermediateSize: number;
  /** Rows of the token embedding: token ids are below it. */
  vocabularySize: number;
  /** Tokens a session may hold. */
  contextLength: number;
  /** Tokens the model was trained for. */
  trainedContextLength: number;
  /** Keys that a query sees, itself included; 0: all before it. */
  slidingWindow: number;
}

/** `contextLength` overrides the trained one, which it must not exceed. Refuses what is not supported before any memory is taken. */
export function readArchitecture(files: ModelFiles, contextLength?: number): Architecture {
  const fields = new Fields(files.config);
  const build = Object.hasOwn(architectures, fields.text('model_type')) ? architectures[fields.text('model_type')] : undefined;
  if (!build) throw fields.unsupported('model_type', Object.keys(architectures));
  if (fields.isSet('quantization_config')) throw fields.unsupported('quantization_config', []);
  if (fields.isSet('num_local_experts', 0, 1)) throw fields.unsupported('num_local_experts', []);
  refuseOtherTasks(files);
  const trained = trainedContextLength(fields);
  if (contextLength !== undefined && contextLength > trained)
    throw new ChaiError('OPTION_INVALID', `contextLength ${contextLength} is more than the ${trained} tokens the model was made for`);
  const architecture = build(files, contextLength);
  refuseUnusedTensors(architecture, files);
  return architecture;
}

/** The same network under a classifier's head is no language model. */
function refuseOtherTasks({ config }: ModelFiles): void {
  const names = Array.isArray(config.architectures) ? config.architectures : [];
  if (names.length === 0 || names.some((name) => /(ForCausalLM|LMHeadModel|Model)$/.test(String(name)))) return;
  throw new Fields(config).unsupported('architectures', ['...ForCausalLM', '...Model']);
}

/** Buffers that old checkpoints store though they follow from the configuration. */
const derived = /\.(rotary_emb\.(inv_freq|cos_cached|sin_cached)|masked_bias)$/;

/** A weight within a layer that nobody reads (a norm of queries, a scale of quantised rows, an adapter) would make the text silently wrong. */
function refuseUnusedTensors({ name, config, layers }: Architecture, files: ModelFiles): void {
  const used = new Set(layers.flatMap((layer) => Object.values(layer).map(({ file, offset }) => `${file}:${offset}`)));
  for (const tensor of files.tensors.values()) {
    const layer = /(?:^|\.)layers\.(\d+)\./.exec(tensor.name)?.[1];
    if (layer === undefined || Number(layer) >= config.layers || derived.test(tensor.name)) continue;
    if (!used.has(`${tensor.file}:${tensor.offset}`))
      throw new ChaiError('UNSUPPORTED_MODEL', `tensor ${tensor.name} is no part of the ${name} network that config.json describes`);
  }
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

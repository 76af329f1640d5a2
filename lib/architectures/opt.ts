// OPT: layer norm before or after each block, learned positions, plain feed-forward, biases. In: model files. Out: an Architecture.
import type { LayerSlot, ModelSlot, NativeConfig, NativeTensor } from '../binding';
import { Fields } from '../fields';
import type { ModelFiles } from '../model_files';
import { type Architecture, TensorFinder } from './architecture';

const positionOffset = 2; // the checkpoints' position table begins with two unused rows
const activations: Record<string, NativeConfig['activation']> = { relu: 'relu', gelu: 'gelu', gelu_new: 'gelu-tanh', silu: 'silu' };

export function opt(files: ModelFiles, contextLength?: number): Architecture {
  const fields = new Fields(files.config);
  const config = readConfig(fields, contextLength);
  const { hiddenSize: d, embeddingSize: e, vocabularySize } = config;
  const find = new TensorFinder(files, ['model.decoder.', 'decoder.', '']);
  const tokenEmbedding = find.get('embed_tokens.weight', vocabularySize, e);
  const tied = fields.boolean('tie_word_embeddings', true);
  const weights: Partial<Record<ModelSlot, NativeTensor>> = {
    tokenEmbedding,
    positionEmbedding: find.getAtLeast('embed_positions.weight', config.contextLength + positionOffset, d),
    output: tied ? tokenEmbedding : new TensorFinder(files, ['']).get('lm_head.weight', vocabularySize, e),
  };
  if (e !== d) {
    weights.embeddingProjection = find.get('project_in.weight', d, e);
    weights.outputProjection = find.get('project_out.weight', e, d);
  }
  if (config.normPlacement === 'before' && !fields.boolean('_remove_final_layer_norm', false)) {
    weights['finalNorm.weight'] = find.get('final_layer_norm.weight', 1, d);
    weights['finalNorm.bias'] = find.get('final_layer_norm.bias', 1, d);
  }
  const biased = fields.boolean('enable_bias', true);
  return { name: 'opt', config, weights, layers: Array.from({ length: config.layers }, (_, i) => readLayer(find, i, config, biased)) };
}

function readConfig(fields: Fields, contextLength?: number): NativeConfig {
  fields.refuseUnless('layer_norm_elementwise_affine', true);
  const heads = fields.count('num_attention_heads', undefined, 1, 4096);
  const hiddenSize = fields.count('hidden_size', undefined, 1, 2 ** 20);
  const activation = activations[fields.text('activation_function', 'relu')];
  if (!activation) throw fields.unsupported('activation_function', Object.keys(activations));
  const headDim = Math.floor(hiddenSize / heads);
  if (headDim * heads !== hiddenSize) throw fields.unsupported('num_attention_heads', ['a divisor of hidden_size']);
  return {
    layers: fields.count('num_hidden_layers', undefined, 1, 4096),
    heads,
    keyValueHeads: heads,
    headDim,
    hiddenSize,
    embeddingSize: fields.count('word_embed_proj_dim', hiddenSize, 1, 2 ** 20),
    intermediateSize: fields.count('ffn_dim', undefined, 1, 2 ** 22),
    vocabularySize: fields.count('vocab_size'),
    contextLength: contextLength ?? fields.count('max_position_embeddings', 2048),
    norm: 'layer',
    normEpsilon: 1e-5,
    normPlacement: fields.boolean('do_layer_norm_before', true) ? 'before' : 'after',
    activation,
    gatedFeedForward: false,
    attentionScale: 1 / Math.sqrt(headDim),
    slidingWindow: 0,
    rotaryFrequencies: new Float32Array(0),
    rotaryScale: 1,
    positionOffset,
  };
}

function readLayer(find: TensorFinder, index: number, config: NativeConfig, biased: boolean): Partial<Record<LayerSlot, NativeTensor>> {
  const { hiddenSize: d, intermediateSize: f } = config;
  const layer: Partial<Record<LayerSlot, NativeTensor>> = {};
  const norm = (slot: 'attentionNorm' | 'feedForwardNorm', name: string) => {
    layer[`${slot}.weight`] = find.get(`layers.${index}.${name}.weight`, 1, d);
    layer[`${slot}.bias`] = find.get(`layers.${index}.${name}.bias`, 1, d);
  };
  const linear = (slot: 'query' | 'key' | 'value' | 'attentionOutput' | 'up' | 'down', name: string, rows: number, columns: number) => {
    layer[`${slot}.weight`] = find.get(`layers.${index}.${name}.weight`, rows, columns);
    if (biased) layer[`${slot}.bias`] = find.get(`layers.${index}.${name}.bias`, 1, rows);
  };
  norm('attentionNorm', 'self_attn_layer_norm');
  norm('feedForwardNorm', 'final_layer_norm');
  linear('query', 'self_attn.q_proj', d, d);
  linear('key', 'self_attn.k_proj', d, d);
  linear('value', 'self_attn.v_proj', d, d);
  linear('attentionOutput', 'self_attn.out_proj', d, d);
  linear('up', 'fc1', f, d);
  linear('down', 'fc2', d, f);
  return layer;
}

// The Llama family (Llama, Mistral): RMS norm, rotary positions, gated feed-forward. In: model files. Out: an Architecture.
import type { LayerSlot, NativeConfig, NativeTensor } from '../binding';
import { Fields } from '../fields';
import type { ModelFiles } from '../model_files';
import { type Architecture, TensorFinder } from './architecture';
import { rotaryFrequencies } from './rotary';

const activations: Record<string, NativeConfig['activation']> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_new: 'gelu-tanh',
  gelu_pytorch_tanh: 'gelu-tanh',
  relu: 'relu',
};

export function llama(files: ModelFiles, contextLength?: number): Architecture {
  const fields = new Fields(files.config);
  const name = fields.text('model_type');
  const config = readConfig(fields, name, contextLength);
  const { hiddenSize: d, vocabularySize } = config;
  const find = new TensorFinder(files, ['model.', '']);
  const tokenEmbedding = find.get('embed_tokens.weight', vocabularySize, d);
  const tied = fields.boolean('tie_word_embeddings', false);
  const head = new TensorFinder(files, ['']);
  return {
    name,
    config,
    weights: {
      tokenEmbedding,
      'finalNorm.weight': find.get('norm.weight', 1, d),
      output: tied ? tokenEmbedding : head.get('lm_head.weight', vocabularySize, d),
    },
    layers: Array.from({ length: config.layers }, (_, i) => readLayer(find, i, config, fields)),
  };
}

function readConfig(fields: Fields, name: string, contextLength?: number): NativeConfig {
  fields.refuseUnless('partial_rotary_factor', 1);
  fields.refuseUnless('use_qk_norm', false);
  fields.refuseUnless('qk_norm', false);
  const heads = fields.count('num_attention_heads', undefined, 1, 4096);
  const keyValueHeads = fields.count('num_key_value_heads', heads, 1, heads);
  if (heads % keyValueHeads !== 0) throw fields.unsupported('num_key_value_heads', [`a divisor of the ${heads} query heads`]);
  const hiddenSize = fields.count('hidden_size', undefined, 1, 2 ** 20);
  const headDim = fields.count('head_dim', Math.floor(hiddenSize / heads), 2, 4096);
  if (headDim % 2 !== 0) throw fields.unsupported('head_dim', ['an even number']);
  const activation = activations[fields.text('hidden_act', 'silu')];
  if (!activation) throw fields.unsupported('hidden_act', Object.keys(activations));
  return {
    layers: fields.count('num_hidden_layers', undefined, 1, 4096),
    heads,
    keyValueHeads,
    headDim,
    hiddenSize,
    embeddingSize: hiddenSize,
    intermediateSize: fields.count('intermediate_size', undefined, 1, 2 ** 22),
    vocabularySize: fields.count('vocab_size'),
    contextLength: contextLength ?? fields.count('max_position_embeddings', 2048),
    norm: 'rms',
    normEpsilon: fields.positive('rms_norm_eps', 1e-6),
    normPlacement: 'before',
    activation,
    gatedFeedForward: true,
    attentionScale: 1 / Math.sqrt(headDim),
    slidingWindow: slidingWindow(fields, name),
    rotaryFrequencies: rotaryFrequencies(fields, headDim),
    rotaryScale: 1,
    positionOffset: 0,
  };
}

/** Mistral's window holds for every layer; Llama has none. */
function slidingWindow(fields: Fields, name: string): number {
  if (fields.isSet('layer_types')) throw fields.unsupported('layer_types', []);
  if (name !== 'mistral') fields.refuseUnless('sliding_window');
  return fields.isSet('sliding_window') ? fields.count('sliding_window') : 0;
}

function readLayer(find: TensorFinder, index: number, config: NativeConfig, fields: Fields): Partial<Record<LayerSlot, NativeTensor>> {
  const { hiddenSize: d, intermediateSize: f, headDim } = config;
  const queries = config.heads * headDim;
  const keys = config.keyValueHeads * headDim;
  const at = (name: string) => `layers.${index}.${name}`;
  const layer: Partial<Record<LayerSlot, NativeTensor>> = {
    'attentionNorm.weight': find.get(at('input_layernorm.weight'), 1, d),
    'query.weight': find.get(at('self_attn.q_proj.weight'), queries, d),
    'key.weight': find.get(at('self_attn.k_proj.weight'), keys, d),
    'value.weight': find.get(at('self_attn.v_proj.weight'), keys, d),
    'attentionOutput.weight': find.get(at('self_attn.o_proj.weight'), d, queries),
    'feedForwardNorm.weight': find.get(at('post_attention_layernorm.weight'), 1, d),
    'gate.weight': find.get(at('mlp.gate_proj.weight'), f, d),
    'up.weight': find.get(at('mlp.up_proj.weight'), f, d),
    'down.weight': find.get(at('mlp.down_proj.weight'), d, f),
  };
  if (fields.boolean('attention_bias', false)) {
    layer['query.bias'] = find.get(at('self_attn.q_proj.bias'), 1, queries);
    layer['key.bias'] = find.get(at('self_attn.k_proj.bias'), 1, keys);
    layer['value.bias'] = find.get(at('self_attn.v_proj.bias'), 1, keys);
    layer['attentionOutput.bias'] = find.get(at('self_attn.o_proj.bias'), 1, d);
  }
  if (fields.boolean('mlp_bias', false)) {
    layer['gate.bias'] = find.get(at('mlp.gate_proj.bias'), 1, f);
    layer['up.bias'] = find.get(at('mlp.up_proj.bias'), 1, f);
    layer['down.bias'] = find.get(at('mlp.down_proj.bias'), 1, d);
  }
  return layer;
}

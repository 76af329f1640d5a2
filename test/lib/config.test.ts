// config.json -> the network's shape: fields read, fields refused by name before anything is loaded.
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readArchitecture } from '../../lib/config';
import { ChaiError } from '../../lib/errors';
import { findModelFiles, type ModelFiles } from '../../lib/model_files';

const fixture = (name: string) => findModelFiles(path.join(__dirname, '..', 'fixtures', name));
const changed = (files: ModelFiles, fields: object): ModelFiles => ({ ...files, config: { ...files.config, ...fields } });

function refused(code: string, files: ModelFiles, fields: object, words: RegExp): void {
  try {
    readArchitecture(changed(files, fields));
  } catch (error) {
    assert.instance(error, ChaiError);
    assert.is((error as ChaiError).code, code, String(error));
    assert.match((error as Error).message, words);
    return;
  }
  assert.unreachable(`expected ${code}`);
}

test('the same rotary frequencies from the old and the new form', async () => {
  const files = await fixture('llama3-rope');
  const { rope_parameters: rope, ...rest } = files.config as { rope_parameters: Record<string, unknown> };
  const { rope_theta, rope_type, ...scaling } = rope;
  const old = { ...files, config: { ...rest, rope_theta, rope_scaling: { type: rope_type, ...scaling } } };
  const { rotaryFrequencies } = readArchitecture(files).config;
  assert.equal(readArchitecture(old).config.rotaryFrequencies, rotaryFrequencies);
  assert.is(rotaryFrequencies.length, 8);
  assert.is(rotaryFrequencies[0], 1);
});

test('what is not supported is refused by the name of its field', async () => {
  const llama = await fixture('llama-mha');
  refused('UNSUPPORTED_MODEL', llama, { model_type: 'mamba' }, /model_type.*llama/);
  refused('UNSUPPORTED_MODEL', llama, { model_type: 'constructor' }, /model_type/);
  refused('UNSUPPORTED_MODEL', llama, { quantization_config: { bits: 4 } }, /quantization_config/);
  refused('UNSUPPORTED_MODEL', llama, { rope_parameters: { rope_type: 'yarn', factor: 2 } }, /rope_type.*llama3/);
  refused('UNSUPPORTED_MODEL', llama, { hidden_act: 'mish' }, /hidden_act/);
  refused('UNSUPPORTED_MODEL', llama, { sliding_window: 16 }, /sliding_window/);
  refused('UNSUPPORTED_MODEL', llama, { head_dim: 7 }, /head_dim/);
  refused('UNSUPPORTED_MODEL', await fixture('opt-pre'), { layer_norm_elementwise_affine: false }, /layer_norm_elementwise_affine/);
});

test('what does not fit the weights or is no number is MODEL_INVALID', async () => {
  const llama = await fixture('llama-mha');
  refused('MODEL_INVALID', llama, { num_attention_heads: 'six' }, /num_attention_heads/);
  refused('MODEL_INVALID', llama, { num_hidden_layers: 1e9 }, /num_hidden_layers/);
  refused('MODEL_INVALID', llama, { num_hidden_layers: 4 }, /layers\.3/);
  refused('MODEL_INVALID', llama, { vocab_size: 319 }, /shape/);
  refused('MODEL_INVALID', llama, { hidden_size: -1 }, /hidden_size/);
  refused('MODEL_INVALID', llama, { rms_norm_eps: 'small' }, /rms_norm_eps/);
  refused('MODEL_INVALID', llama, { attention_bias: true }, /bias/);
  refused('MODEL_INVALID', llama, { tie_word_embeddings: 'yes' }, /tie_word_embeddings/);
});

test('query heads that share no whole number of key heads are refused', async () => {
  refused('UNSUPPORTED_MODEL', await fixture('llama-mha'), { num_key_value_heads: 4 }, /num_key_value_heads = 4.*divisor of the 6/);
});

test('the network under the head of another task is refused', async () => {
  const llama = await fixture('llama-mha');
  refused(
    'UNSUPPORTED_MODEL',
    llama,
    { architectures: ['LlamaForSequenceClassification'] },
    /architectures.*LlamaForSequenceClassification/,
  );
  for (const architectures of [null, [], ['LlamaModel'], ['LlamaForCausalLM'], ['OPTForCausalLM', 'X']])
    assert.is(readArchitecture(changed(llama, { architectures })).config.heads, 6);
});

test('weights that nobody would read are refused; derived ones and further layers are not', async () => {
  const files = await fixture('llama-mha');
  const some = files.tensors.get('model.layers.0.input_layernorm.weight')!;
  const withTensor = (name: string) => ({ ...files, tensors: new Map(files.tensors).set(name, { ...some, name, offset: 1 }) });
  for (const name of [
    'model.layers.0.self_attn.q_norm.weight',
    'model.layers.2.self_attn.q_proj.bias',
    'layers.1.mlp.up_proj.weight_scale',
  ])
    refused('UNSUPPORTED_MODEL', withTensor(name), {}, new RegExp(name));
  for (const name of ['model.layers.0.self_attn.rotary_emb.inv_freq', 'model.layers.3.self_attn.q_proj.bias', 'decoder.version'])
    assert.is(readArchitecture(withTensor(name)).config.layers, 3);
});

test('a context beyond the trained one is refused', async () => {
  const files = await fixture('llama-mha');
  assert.is(readArchitecture(files, 100).config.contextLength, 100);
  assert.throws(() => readArchitecture(files, 257), /257/);
});

test.run();

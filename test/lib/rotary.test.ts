// Rotary frequencies against transformers, to the last bit.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { rotaryFrequencies } from '../../lib/architectures/rotary';
import { ChaiError } from '../../lib/errors';
import { Fields } from '../../lib/fields';

const frequencies = (headDim: number, config: object) =>
  rotaryFrequencies(new Fields({ max_position_embeddings: 8192, ...config }), headDim);
const bits = (headDim: number, config: object) => [...new Int32Array(frequencies(headDim, config).buffer)];

// The bits of each number, by transformers 5.18 (head_dim and rope_parameters as in the test):
// LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=8192, head_dim=..., rope_parameters={...})).inv_freq.view(torch.int32)
const plain16 = [1065353216, 1044812720, 1025116360, 1005516623, 985226529, 965724408, 945754308, 925697959];
const linear16 = [1051372203, 1037557967, 1023969417, 1009562585, 995783693, 982133115, 967754559, 954011435];
const llama32 = [
  1065353216, 1054963644, 1044812720, 1034871981, 1021313230, 997607714, 980350799, 970094368, 960060705, 950223245, 940558584, 930956739,
  920588484, 910456336, 900532135, 890791079,
];
const stretched = { rope_type: 'llama3', rope_theta: 500000, factor: 8, low_freq_factor: 1, high_freq_factor: 4 };

test('plain, linear and llama3 agree with transformers', () => {
  assert.equal(bits(16, { rope_parameters: { rope_type: 'default', rope_theta: 500000 } }), plain16);
  assert.equal(bits(16, { rope_theta: 500000 }), plain16);
  assert.equal(bits(16, { rope_theta: 500000, rope_scaling: null }), plain16);
  assert.equal(bits(16, { rope_parameters: { rope_type: 'linear', rope_theta: 10000, factor: 3 } }), linear16);
  assert.equal(bits(16, { rope_scaling: { type: 'linear', factor: 3 } }), linear16);
  assert.equal(bits(32, { rope_parameters: { ...stretched, original_max_position_embeddings: 512 } }), llama32);
});

test('the context before stretching may stand beside the rope settings, and defaults to the stretched one', () => {
  assert.equal(bits(32, { rope_parameters: stretched, original_max_position_embeddings: 512 }), llama32);
  assert.equal(bits(32, { rope_parameters: stretched, max_position_embeddings: 512 }), llama32);
});

test('old settings win over new ones; empty ones do not count', () => {
  assert.equal(bits(16, { rope_scaling: { type: 'linear', factor: 3 }, rope_parameters: { rope_type: 'default' } }), linear16);
  assert.equal(bits(16, { rope_scaling: {}, rope_parameters: { rope_type: 'linear', factor: 3 } }), linear16);
});

test('what is not understood is refused by name', () => {
  const cases: [string, object, RegExp][] = [
    ['UNSUPPORTED_MODEL', { rope_scaling: { type: 'yarn', factor: 2 } }, /rope_scaling: type = "yarn".*llama3/],
    ['UNSUPPORTED_MODEL', { rope_parameters: { full_attention: { rope_type: 'default' } } }, /full_attention/],
    ['UNSUPPORTED_MODEL', { rope_parameters: { rope_type: 'linear', factor: 2, attention_factor: 0.5 } }, /attention_factor/],
    ['UNSUPPORTED_MODEL', { rope_parameters: { partial_rotary_factor: 0.5 } }, /partial_rotary_factor/],
    ['MODEL_INVALID', { rope_scaling: { type: 'linear' } }, /factor is missing/],
    ['MODEL_INVALID', { rope_scaling: { type: 'linear', factor: 0 } }, /factor is 0/],
    ['MODEL_INVALID', { rope_scaling: 'linear' }, /rope_scaling/],
    ['MODEL_INVALID', { rope_theta: -1 }, /rope_theta/],
    ['MODEL_INVALID', { rope_parameters: { ...stretched, high_freq_factor: 1 } }, /high_freq_factor/],
  ];
  for (const [code, config, words] of cases) {
    let caught: unknown;
    try {
      frequencies(16, config);
    } catch (error) {
      caught = error;
    }
    assert.instance(caught, ChaiError, JSON.stringify(config));
    assert.is((caught as ChaiError).code, code);
    assert.match((caught as ChaiError).message, words);
  }
});

test.run();

// Rotary inverse frequencies, rounded to float32 wherever transformers rounds. In: the rope fields of config.json. Out: headDim / 2 numbers.
import { ChaiError } from '../errors';
import type { Fields } from '../fields';

const f32 = Math.fround;
const known = ['rope_type', 'type', 'rope_theta', 'factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings'];

/**
 * Rotary settings stand in `rope_parameters` (newer files) or in `rope_theta` and `rope_scaling` (older ones, which win when both are there,
 * as in transformers' modeling_rope_utils.py). Throws UNSUPPORTED_MODEL or MODEL_INVALID naming the field.
 */
export function rotaryFrequencies(config: Fields, headDim: number): Float32Array {
  const scaling = nonEmpty(config.nested('rope_scaling')) ?? nonEmpty(config.nested('rope_parameters'));
  scaling?.refuseUnless('partial_rotary_factor', 1);
  scaling?.refuseOthers([...known, 'partial_rotary_factor']);
  const theta = scaling?.isSet('rope_theta') ? scaling.positive('rope_theta') : config.positive('rope_theta', 10000);
  const plain = Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / f32(theta ** f32((2 * i) / headDim)));
  if (!scaling) return plain;
  const type = scaling.isSet('rope_type') ? 'rope_type' : 'type';
  switch (scaling.text(type, 'default')) {
    case 'default':
      return plain;
    case 'linear': {
      const factor = f32(scaling.positive('factor'));
      return plain.map((frequency) => frequency / factor);
    }
    case 'llama3':
      return llama3Frequencies(plain, scaling, originalContext(config, scaling));
    default:
      throw scaling.unsupported(type, ['default', 'linear', 'llama3']);
  }
}

function nonEmpty(fields: Fields | undefined): Fields | undefined {
  return fields?.isEmpty ? undefined : fields;
}

/** The context before stretching; some files keep it outside the rope settings, and it defaults to the stretched one. */
function originalContext(config: Fields, scaling: Fields): number {
  const field = 'original_max_position_embeddings';
  if (config.isSet(field)) return config.positive(field);
  return scaling.isSet(field) ? scaling.positive(field) : config.positive('max_position_embeddings', 2048);
}

/** Long wavelengths are stretched by `factor`, short ones kept, those between blended. */
function llama3Frequencies(plain: Float32Array, scaling: Fields, context: number): Float32Array {
  const factor = scaling.positive('factor');
  const low = scaling.positive('low_freq_factor');
  const high = scaling.positive('high_freq_factor');
  if (high <= low) throw new ChaiError('MODEL_INVALID', `config.json: high_freq_factor ${high} must be above low_freq_factor ${low}`);
  return plain.map((frequency) => {
    const wavelength = f32(f32(1 / frequency) * f32(2 * Math.PI)); // torch divides a number by a tensor as reciprocal times number
    const stretched = f32(frequency / f32(factor));
    if (wavelength < f32(context / high)) return frequency;
    if (wavelength > f32(context / low)) return stretched;
    const smooth = f32(f32(f32(f32(1 / wavelength) * context) - low) / f32(high - low));
    return f32(f32(f32(1 - smooth) * frequency) / f32(factor)) + f32(smooth * frequency);
  });
}

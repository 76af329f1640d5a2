// Rotary inverse frequencies, rounded to float32 where transformers rounds. In: the rope fields of config.json. Out: headDim / 2 numbers.
import type { Fields } from '../fields';

/** Rotary settings stand in `rope_parameters` (newer files) or in `rope_theta` and `rope_scaling` (older ones). */
export function rotaryFrequencies(config: Fields, headDim: number): Float32Array {
  const scaling = config.nested('rope_parameters') ?? config.nested('rope_scaling');
  const theta = scaling?.isSet('rope_theta') ? scaling.positive('rope_theta') : config.positive('rope_theta', 10000);
  const plain = Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / Math.fround(theta ** Math.fround((2 * i) / headDim)));
  if (!scaling) return plain;
  scaling.refuseUnless('partial_rotary_factor', 1);
  const type = scaling.isSet('rope_type') ? 'rope_type' : 'type';
  switch (scaling.text(type, 'default')) {
    case 'default':
      return plain;
    case 'linear': {
      const factor = scaling.positive('factor');
      return plain.map((frequency) => frequency / factor);
    }
    case 'llama3':
      return llama3Frequencies(plain, scaling);
    default:
      throw scaling.unsupported(type, ['default', 'linear', 'llama3']);
  }
}

/** Long wavelengths are stretched by `factor`, short ones kept, those between blended. */
function llama3Frequencies(plain: Float32Array, scaling: Fields): Float32Array {
  const factor = scaling.positive('factor');
  const low = scaling.positive('low_freq_factor');
  const high = scaling.positive('high_freq_factor');
  const context = scaling.positive('original_max_position_embeddings');
  return plain.map((frequency) => {
    const wavelength = (2 * Math.PI) / frequency;
    if (wavelength < context / high) return frequency;
    if (wavelength > context / low) return frequency / factor;
    const smooth = (context / wavelength - low) / (high - low);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
}

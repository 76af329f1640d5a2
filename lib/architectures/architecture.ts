// What every architecture gives the engine: the network's shape, and where each weight lies. In: model files. Out: numbers and positions.
import type { ElementType, LayerSlot, ModelSlot, NativeConfig, NativeTensor } from '../binding';
import { ChaiError } from '../errors';
import type { LocatedTensor, ModelFiles } from '../model_files';

export interface Architecture {
  /** As config.json names it, e.g. 'llama'. */
  name: string;
  config: NativeConfig;
  weights: Partial<Record<ModelSlot, NativeTensor>>;
  layers: Partial<Record<LayerSlot, NativeTensor>>[];
}

const elementTypes: Record<string, ElementType> = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' };

/** Looks tensors up by name, with or without the prefixes under which checkpoints store the same network. */
export class TensorFinder {
  constructor(
    private readonly files: ModelFiles,
    private readonly prefixes: string[],
  ) {}

  has(name: string): boolean {
    return this.find(name) !== undefined;
  }

  /** A matrix or, with `rows` 1, a vector. Throws MODEL_INVALID when missing or of another shape, UNSUPPORTED_MODEL for its type. */
  get(name: string, rows: number, columns: number): NativeTensor {
    const tensor = this.find(name);
    if (!tensor) throw new ChaiError('MODEL_INVALID', `${this.files.directory}: the weights lack tensor ${this.prefixes.at(0)}${name}`);
    const type = elementTypes[tensor.dtype];
    if (!type)
      throw new ChaiError(
        'UNSUPPORTED_MODEL',
        `tensor ${tensor.name} has dtype ${tensor.dtype}; supported: ${Object.keys(elementTypes).join(', ')}`,
      );
    const shape = rows === 1 ? [columns] : [rows, columns];
    if (tensor.shape.length !== shape.length || tensor.shape.some((size, i) => size !== shape[i]))
      throw new ChaiError('MODEL_INVALID', `tensor ${tensor.name} has shape [${tensor.shape}], but config.json asks for [${shape}]`);
    return { file: tensor.file, offset: tensor.offset, type, rows, columns };
  }

  /** The table of learned positions may be longer than the context. */
  getAtLeast(name: string, leastRows: number, columns: number): NativeTensor {
    const rows = this.find(name)?.shape[0] ?? leastRows;
    if (rows < leastRows) throw new ChaiError('MODEL_INVALID', `tensor ${name} has ${rows} rows, but the context needs ${leastRows}`);
    return this.get(name, rows, columns);
  }

  private find(name: string): LocatedTensor | undefined {
    for (const prefix of this.prefixes) {
      const tensor = this.files.tensors.get(prefix + name);
      if (tensor) return tensor;
    }
    return undefined;
  }
}

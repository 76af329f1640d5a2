// A tensor table on its way between threads: a few flat arrays, which cost next to nothing to receive, and back in slices of a millisecond.
// In: name -> tensor. Out: the same.
import { setImmediate as turn } from 'node:timers/promises';
import type { Tensor } from './safetensors';

export interface PackedTensors {
  /** Names and dtypes, joined by line ends of their own; JSON strings, so that no name can hold one. */
  names: string;
  dtypes: string;
  /** For each tensor: offset, bytes, rank, then its shape. */
  numbers: Float64Array;
}

const slice = 1000; // tensors unpacked in one turn of the event loop

export function packTensors(tensors: Map<string, Tensor>): PackedTensors {
  const all = [...tensors.values()];
  const numbers: number[] = [];
  for (const { offset, bytes, shape } of all) numbers.push(offset, bytes, shape.length, ...shape);
  return {
    names: all.map(({ name }) => JSON.stringify(name)).join('\n'),
    dtypes: all.map(({ dtype }) => dtype).join('\n'),
    numbers: Float64Array.from(numbers),
  };
}

export async function unpackTensors({ names, dtypes, numbers }: PackedTensors): Promise<Map<string, Tensor>> {
  const tensors = new Map<string, Tensor>();
  let name = 0;
  let dtype = 0;
  const next = (text: string, from: number) => {
    const end = text.indexOf('\n', from);
    return end < 0 ? text.length : end;
  };
  for (let at = 0; at < numbers.length; ) {
    const nameEnd = next(names, name);
    const dtypeEnd = next(dtypes, dtype);
    const [offset, bytes, rank] = numbers.subarray(at, at + 3) as unknown as [number, number, number];
    const tensor: Tensor = {
      name: JSON.parse(names.slice(name, nameEnd)),
      dtype: dtypes.slice(dtype, dtypeEnd),
      shape: [...numbers.subarray(at + 3, at + 3 + rank)],
      offset,
      bytes,
    };
    tensors.set(tensor.name, tensor);
    name = nameEnd + 1;
    dtype = dtypeEnd + 1;
    at += 3 + rank;
    if (tensors.size % slice === 0) await turn();
  }
  return tensors;
}

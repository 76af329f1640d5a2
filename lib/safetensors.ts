// Parses the header of a safetensors file as hostile input. In: a path. Out: name -> type, shape and byte range, all proven to fit the file.
import fs from 'node:fs/promises';
import { ChaiError } from './errors';
import { isObject } from './json_file';

export interface Tensor {
  name: string;
  /** As in the file: 'F32', 'F16', 'BF16', or a type this library does not compute with. */
  dtype: string;
  shape: number[];
  /** First byte in the file, and how many. */
  offset: number;
  bytes: number;
}

/** Bytes of one element, of every type the format knows; sub-byte types are left out and refused by name. */
const elementBytes: Record<string, number> = {
  F64: 8,
  I64: 8,
  U64: 8,
  C64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
  F8_E5M2: 1,
  F8_E4M3: 1,
  I8: 1,
  U8: 1,
  BOOL: 1,
};
const largestHeader = 100_000_000;

/** Opens the file, reads and proves its header. Throws MODEL_NOT_FOUND or MODEL_INVALID naming file and tensor. */
export async function readSafetensorsHeader(path: string): Promise<Map<string, Tensor>> {
  let file: fs.FileHandle;
  try {
    file = await fs.open(path, 'r');
  } catch (error) {
    throw new ChaiError('MODEL_NOT_FOUND', `cannot open ${path}: ${(error as Error).message}`, { cause: error });
  }
  try {
    const { size } = await file.stat();
    const prefix = Buffer.alloc(8);
    await readFully(file, prefix, 0, path);
    const length = prefix.readBigUInt64LE();
    if (length > BigInt(largestHeader) || length > BigInt(Math.max(0, size - 8)))
      throw invalid(path, `its header claims ${length} bytes, but the file has ${size}; it may be truncated, download it again`);
    const header = Buffer.alloc(Number(length));
    await readFully(file, header, 8, path);
    return parseSafetensorsHeader(header.toString('utf8'), 8 + header.length, size, path);
  } finally {
    await file.close();
  }
}

/** The pure part: header text, where the data begins, the file's size. */
export function parseSafetensorsHeader(text: string, dataStart: number, fileSize: number, path: string): Map<string, Tensor> {
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch (error) {
    throw invalid(path, `its header is not valid JSON (${(error as Error).message})`);
  }
  if (!isObject(header)) throw invalid(path, 'its header is not a JSON object');
  const tensors = new Map<string, Tensor>();
  for (const [name, entry] of Object.entries(header))
    if (name !== '__metadata__') tensors.set(name, parseTensor(name, entry, dataStart, fileSize, path));
  checkOverlaps([...tensors.values()], path);
  return tensors;
}

function parseTensor(name: string, entry: unknown, dataStart: number, fileSize: number, path: string): Tensor {
  const fail = (what: string) => invalid(path, `tensor ${JSON.stringify(name)}: ${what}`);
  if (!isObject(entry)) throw fail('its entry is not an object');
  const { dtype, shape, data_offsets: offsets } = entry;
  const width = typeof dtype === 'string' && Object.hasOwn(elementBytes, dtype) ? elementBytes[dtype] : undefined;
  if (width === undefined) throw fail(`its dtype ${JSON.stringify(dtype)} is not known`);
  if (!isCounts(shape)) throw fail(`its shape ${JSON.stringify(shape)} is not a list of whole numbers`);
  let elements = 1;
  for (const size of shape) {
    elements *= size;
    if (!Number.isSafeInteger(elements)) throw fail(`its shape ${JSON.stringify(shape)} overflows`);
  }
  if (!isCounts(offsets) || offsets.length !== 2) throw fail(`its data_offsets ${JSON.stringify(offsets)} are not two whole numbers`);
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > fileSize - dataStart)
    throw fail(`its data ends at byte ${dataStart + end}, but the file has ${fileSize}; it may be truncated, download it again`);
  const bytes = elements * width;
  if (end - begin !== bytes) throw fail(`its data has ${end - begin} bytes, but ${dtype} x ${JSON.stringify(shape)} needs ${bytes}`);
  return { name, dtype: dtype as string, shape, offset: dataStart + begin, bytes };
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0 && !Object.is(n, -0));
}

function checkOverlaps(tensors: Tensor[], path: string): void {
  const ordered = tensors.filter((tensor) => tensor.bytes > 0).sort((a, b) => a.offset - b.offset);
  for (let i = 1; i < ordered.length; ++i) {
    const [before, after] = [ordered[i - 1]!, ordered[i]!];
    if (before.offset + before.bytes > after.offset)
      throw invalid(path, `tensors ${JSON.stringify(before.name)} and ${JSON.stringify(after.name)} overlap`);
  }
}

async function readFully(file: fs.FileHandle, into: Buffer, position: number, path: string): Promise<void> {
  for (let done = 0; done < into.length; ) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) throw invalid(path, 'it ends inside its header; it may be truncated, download it again');
    done += bytesRead;
  }
}

function invalid(path: string, what: string): ChaiError {
  return new ChaiError('MODEL_INVALID', `${path} is not a usable safetensors file: ${what}`);
}

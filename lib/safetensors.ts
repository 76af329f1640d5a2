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

/** Bits of one element, of every type the format knows: more than this library computes with, so that refusals can name the reason. */
const elementBits: Record<string, number> = {
  F64: 64,
  I64: 64,
  U64: 64,
  C64: 64,
  F32: 32,
  I32: 32,
  U32: 32,
  F16: 16,
  BF16: 16,
  I16: 16,
  U16: 16,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E5M2FNUZ: 8,
  F8_E4M3FNUZ: 8,
  F8_E8M0: 8,
  I8: 8,
  U8: 8,
  BOOL: 8,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F4: 4,
};
const largestHeader = 100_000_000;

/** Opens the file, reads and proves its header. Throws MODEL_NOT_FOUND or MODEL_INVALID naming file and tensor. */
export async function readSafetensorsHeader(path: string): Promise<Map<string, Tensor>> {
  const file = await open(path);
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
  } catch (error) {
    if (error instanceof ChaiError) throw error;
    throw new ChaiError('MODEL_INVALID', `cannot read ${path}: ${(error as Error).message}`, { cause: error });
  } finally {
    await file.close();
  }
}

/** Regular files only: opening a pipe would wait for its other end, for ever. */
async function open(path: string): Promise<fs.FileHandle> {
  try {
    if (!(await fs.stat(path)).isFile()) throw invalid(path, 'it is not a regular file');
    return await fs.open(path, 'r');
  } catch (error) {
    if (error instanceof ChaiError) throw error;
    const message = `cannot open ${path}: ${(error as Error).message}; download the model again if the file is missing`;
    throw new ChaiError('MODEL_NOT_FOUND', message, { cause: error });
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
  const bits = typeof dtype === 'string' && Object.hasOwn(elementBits, dtype) ? elementBits[dtype] : undefined;
  if (bits === undefined) throw fail(`its dtype ${JSON.stringify(dtype)} is not known`);
  if (!isCounts(shape)) throw fail(`its shape ${JSON.stringify(shape)} is not a list of whole numbers`);
  let elements = 1;
  for (const size of shape) {
    elements *= size;
    if (!Number.isSafeInteger(elements * bits)) throw fail(`its shape ${JSON.stringify(shape)} overflows`);
  }
  if (!isCounts(offsets) || offsets.length !== 2) throw fail(`its data_offsets ${JSON.stringify(offsets)} are not two whole numbers`);
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > fileSize - dataStart)
    throw fail(`its data ends at byte ${dataStart + end}, but the file has ${fileSize}; it may be truncated, download it again`);
  const bytes = (elements * bits) / 8;
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

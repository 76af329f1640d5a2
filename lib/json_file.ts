// Reads small JSON files of a model directory. In: a path. Out: a parsed object, or a typed error that names the file.
import fs from 'node:fs/promises';
import { ChaiError } from './errors';

/** Bytes that such a file may have. */
export const largest = 10 * 1024 * 1024;

export type JsonObject = Record<string, unknown>;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The file's text, or undefined when there is no such file. Throws MODEL_INVALID when it is larger than 10 MiB or unreadable. */
export async function readTextFile(path: string): Promise<string | undefined> {
  try {
    const status = await fs.stat(path);
    // Opening a pipe would wait for its other end, for ever.
    if (!status.isFile()) throw new ChaiError('MODEL_INVALID', `${path} is not a regular file`);
    const { size } = status;
    if (size > largest) throw new ChaiError('MODEL_INVALID', `${path} is ${size} bytes, more than the ${largest} such a file may have`);
    return await fs.readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof ChaiError) throw error;
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new ChaiError('MODEL_INVALID', `cannot read ${path}: ${(error as Error).message}`, { cause: error });
  }
}

export function parseJsonObject(text: string, path: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ChaiError('MODEL_INVALID', `${path} is not valid JSON: ${(error as Error).message}`, { cause: error });
  }
  if (!isObject(value)) throw new ChaiError('MODEL_INVALID', `${path} must hold a JSON object`);
  return value;
}

/** The object in the file, or undefined when there is no such file. */
export async function readJsonObject(path: string): Promise<JsonObject | undefined> {
  const text = await readTextFile(path);
  return text === undefined ? undefined : parseJsonObject(text, path);
}

// Reads files of a model directory without holding up the event loop: small ones here, large ones on a thread that lives as long as the call.
// In: paths. Out: parsed objects and tensor tables; the typed errors of json_file.ts and safetensors.ts.
import fs from 'node:fs/promises';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { ChaiError, toChaiError } from './errors';
import { type JsonObject, largest, readJsonObject } from './json_file';
import { readSafetensorsHeader, type Tensor } from './safetensors';
import { type PackedTensors, unpackTensors } from './tensor_table';

export interface LargeFile {
  /** 'tensors': a safetensors header; 'shards': an index, of which only the shards' names are wanted; 'object': any JSON object. */
  kind: 'tensors' | 'shards' | 'object';
  path: string;
}

/** Parsing this much JSON takes about a millisecond. */
const small = 128 * 1024;

/** The object in the file, or undefined when there is no such file. */
export async function readObject(file: string, kind: 'object' | 'shards' = 'object'): Promise<JsonObject | undefined> {
  const status = await fs.stat(file).catch(() => undefined);
  if (!status?.isFile() || status.size <= small || status.size > largest) return readJsonObject(file);
  return onThread({ kind, path: file });
}

export async function readTensorTable(file: string): Promise<Map<string, Tensor>> {
  if ((await headerBytes(file)) <= small) return readSafetensorsHeader(file);
  return unpackTensors(await onThread<PackedTensors>({ kind: 'tensors', path: file }));
}

/** What the file claims its header to have; 0 when it cannot be read, which readSafetensorsHeader then explains. */
async function headerBytes(file: string): Promise<number> {
  try {
    if (!(await fs.stat(file)).isFile()) return 0;
    const handle = await fs.open(file, 'r');
    try {
      const { bytesRead, buffer } = await handle.read(Buffer.alloc(8), 0, 8, 0);
      return bytesRead === 8 ? Number(buffer.readBigUInt64LE()) : 0;
    } finally {
      await handle.close();
    }
  } catch {
    return 0;
  }
}

function onThread<Result>(workerData: LargeFile): Promise<Result> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(path.join(__dirname, 'large_file_worker.js'), { workerData, execArgv: [] });
    worker.once('message', ({ result, error }: { result: Result; error?: { code: string; message: string } }) => {
      if (error) reject(toChaiError(error, undefined, 'MODEL_INVALID'));
      else resolve(result);
    });
    worker.once('error', (error) =>
      reject(new ChaiError('MODEL_INVALID', `${workerData.path} cannot be parsed: ${error.message}`, { cause: error })),
    );
    worker.once('exit', () => reject(new ChaiError('MODEL_INVALID', `${workerData.path} cannot be parsed: its thread ended early`)));
  });
}

// The thread that parses large files of a model directory, so that the event loop does not stand still. In: a path and what it holds. Out: plain
// data that is cheap to receive: a packed tensor table, the shards an index names, or a parsed object.
import { parentPort, workerData } from 'node:worker_threads';
import { readJsonObject } from './json_file';
import type { LargeFile } from './large_file';
import { readSafetensorsHeader } from './safetensors';
import { packTensors } from './tensor_table';

async function parse({ kind, path }: LargeFile): Promise<unknown> {
  if (kind === 'tensors') return packTensors(await readSafetensorsHeader(path));
  const object = await readJsonObject(path);
  if (kind === 'object') return object;
  const map = object?.weight_map;
  return typeof map === 'object' && map !== null ? { ...object, weight_map: shardsOnly(map as Record<string, unknown>) } : object;
}

/** One entry a shard: which tensor lies where, the shards' own headers tell. */
function shardsOnly(map: Record<string, unknown>): Record<string, unknown> {
  const shards = new Set(Object.values(map));
  return Object.fromEntries([...shards].map((shard, i) => [`shard ${i}`, shard]));
}

parse(workerData as LargeFile).then(
  (result) => parentPort?.postMessage({ result }),
  ({ code, message }: { code?: string; message: string }) => parentPort?.postMessage({ error: { code: code ?? 'MODEL_INVALID', message } }),
);

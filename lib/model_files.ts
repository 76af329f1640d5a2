// Finds what a model directory holds. In: a directory in the Hugging Face layout. Out: its parsed small files and all tensor positions.
import fs from 'node:fs/promises';
import path from 'node:path';
import { ChaiError } from './errors';
import { isObject, type JsonObject, readTextFile } from './json_file';
import { readObject, readTensorTable } from './large_file';
import type { Tensor } from './safetensors';
import { Turn } from './turn';

export interface LocatedTensor extends Tensor {
  /** Index into ModelFiles.weightFiles. */
  file: number;
}

export interface ModelFiles {
  directory: string;
  config: JsonObject;
  generationConfig: JsonObject;
  tokenizerConfig: JsonObject;
  /** Path of tokenizer.json; it is parsed by the tokenizer's worker, it may be large. */
  tokenizer: string;
  /** Jinja source beside the tokenizer config, when there is such a file. */
  chatTemplateFile?: string;
  /** Path of head-plan.json, when there is one. */
  headPlan?: string;
  weightFiles: string[];
  tensors: Map<string, LocatedTensor>;
}

/** Throws MODEL_NOT_FOUND when a needed file is missing, MODEL_INVALID when one is broken. */
export async function findModelFiles(directory: string): Promise<ModelFiles> {
  const at = (name: string) => path.join(directory, name);
  await checkDirectory(directory);
  const config = await readObject(at('config.json'));
  if (!config) throw new ChaiError('MODEL_NOT_FOUND', `${directory} has no config.json; give a directory in the Hugging Face layout`);
  const [generationConfig, tokenizerConfig, chatTemplateFile] = await Promise.all([
    readObject(at('generation_config.json')),
    readObject(at('tokenizer_config.json')),
    readTextFile(at('chat_template.jinja')),
  ]);
  await checkTokenizerFile(at('tokenizer.json'));
  const weightFiles = await findWeightFiles(directory);
  return {
    directory,
    config,
    generationConfig: generationConfig ?? {},
    tokenizerConfig: tokenizerConfig ?? {},
    tokenizer: at('tokenizer.json'),
    chatTemplateFile,
    headPlan: (await exists(at('head-plan.json'))) ? at('head-plan.json') : undefined,
    weightFiles,
    tensors: await readTensors(weightFiles),
  };
}

async function checkDirectory(directory: string): Promise<void> {
  const status = await fs.stat(directory).catch(() => undefined);
  if (!status) throw new ChaiError('MODEL_NOT_FOUND', `there is no ${directory}; give the path of a model directory`);
  if (!status.isDirectory())
    throw new ChaiError('MODEL_NOT_FOUND', `${directory} is not a directory; give the directory that holds config.json and *.safetensors`);
}

const largestTokenizer = 500_000_000; // a longer text is no JavaScript string

async function checkTokenizerFile(file: string): Promise<void> {
  const status = await fs.stat(file).catch(() => undefined);
  if (!status) throw new ChaiError('MODEL_NOT_FOUND', `there is no ${file}; convert the model's tokenizer to that format`);
  if (!status.isFile() || status.size > largestTokenizer)
    throw new ChaiError('MODEL_INVALID', `${file} is not a regular file of at most ${largestTokenizer} bytes`);
}

async function exists(file: string): Promise<boolean> {
  return fs.access(file).then(
    () => true,
    () => false,
  );
}

async function findWeightFiles(directory: string): Promise<string[]> {
  const single = path.join(directory, 'model.safetensors');
  if (await exists(single)) return [single];
  const indexPath = path.join(directory, 'model.safetensors.index.json');
  const index = await readObject(indexPath, 'shards');
  if (!index)
    throw new ChaiError(
      'MODEL_NOT_FOUND',
      `${directory} has neither model.safetensors nor model.safetensors.index.json; other weight formats are not read`,
    );
  if (!isObject(index.weight_map)) throw new ChaiError('MODEL_INVALID', `${indexPath}: weight_map is not an object`);
  const names = new Set<string>();
  for (const name of Object.values(index.weight_map)) {
    // A shard is a file of this directory, never a path out of it.
    if (typeof name !== 'string' || !/^[^/\\\0]+\.safetensors$/.test(name) || name.startsWith('..'))
      throw new ChaiError('MODEL_INVALID', `${indexPath}: weight_map names ${JSON.stringify(name)}, which is not a .safetensors file name`);
    names.add(name);
  }
  if (names.size === 0) throw new ChaiError('MODEL_INVALID', `${indexPath}: weight_map is empty`);
  return [...names].sort().map((name) => path.join(directory, name));
}

async function readTensors(files: string[]): Promise<Map<string, LocatedTensor>> {
  const tensors = new Map<string, LocatedTensor>();
  const turn = new Turn(undefined, 'loading');
  // One after another: headers may be large, and file handles few.
  for (const [file, name] of files.entries())
    for (const tensor of (await readTensorTable(name)).values()) {
      const other = tensors.get(tensor.name);
      if (other)
        throw new ChaiError('MODEL_INVALID', `tensor ${JSON.stringify(tensor.name)} is in ${files[other.file]} and in ${files[file]}`);
      tensors.set(tensor.name, { ...tensor, file });
      if (tensors.size % 256 === 0) await turn.over();
    }
  return tensors;
}

// A very small seeded Llama for tests of the native border. In: overrides of its shape. Out: load options on a temporary weights file.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import v8 from 'node:v8';
import vm from 'node:vm';
import type { LayerSlot, NativeConfig, NativeGenerateOptions, NativeLoadOptions, NativePlan, NativeTensor } from '../../lib/binding';

export interface TinyModel {
  options: NativeLoadOptions;
  /** Deletes the weights file. */
  remove(): void;
}

/** 2 layers, 4 query heads on 2 key heads of size 8, 64 tokens of vocabulary. */
export function tinyModel(overrides: Partial<NativeConfig> = {}): TinyModel {
  const config: NativeConfig = {
    layers: 2,
    heads: 4,
    keyValueHeads: 2,
    headDim: 8,
    hiddenSize: 32,
    embeddingSize: 32,
    intermediateSize: 64,
    vocabularySize: 64,
    contextLength: 256,
    norm: 'rms',
    normEpsilon: 1e-5,
    normPlacement: 'before',
    activation: 'silu',
    gatedFeedForward: true,
    attentionScale: 8 ** -0.5,
    slidingWindow: 0,
    rotaryFrequencies: Float32Array.from([1, 0.1, 0.01, 0.001]),
    rotaryScale: 1,
    positionOffset: 0,
    ...overrides,
  };
  const values: Float32Array[] = [];
  let offset = 0;
  let state = 1;
  const tensor = (rows: number, columns: number, constant?: number): NativeTensor => {
    const data = Float32Array.from({ length: rows * columns }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return constant ?? (state / 2 ** 32 - 0.5) * 0.5;
    });
    values.push(data);
    const placed: NativeTensor = { file: 0, offset, type: 'float32', rows, columns };
    offset += data.byteLength;
    return placed;
  };
  const { hiddenSize: d, intermediateSize: f } = config;
  const q = config.heads * config.headDim;
  const kv = config.keyValueHeads * config.headDim;
  const layers = Array.from(
    { length: config.layers },
    (): Partial<Record<LayerSlot, NativeTensor>> => ({
      'attentionNorm.weight': tensor(1, d, 1),
      'query.weight': tensor(q, d),
      'key.weight': tensor(kv, d),
      'value.weight': tensor(kv, d),
      'attentionOutput.weight': tensor(d, q),
      'feedForwardNorm.weight': tensor(1, d, 1),
      'gate.weight': tensor(f, d),
      'up.weight': tensor(f, d),
      'down.weight': tensor(d, f),
    }),
  );
  const tokenEmbedding = tensor(config.vocabularySize, d);
  const weights = { tokenEmbedding, output: tokenEmbedding, 'finalNorm.weight': tensor(1, d, 1) };
  const folder = mkdtempSync(path.join(tmpdir(), 'chai-llm-'));
  const file = path.join(folder, 'weights');
  writeFileSync(file, Buffer.concat(values.map((data) => Buffer.from(data.buffer))));
  return {
    options: {
      config,
      files: [file],
      weights,
      layers,
      device: 'cpu',
      cacheType: 'float32',
      cacheTokens: 4 * config.contextLength,
      maxBatch: 4,
      maxRows: 64,
      threads: 1,
      mmap: false,
    },
    remove: () => rmSync(folder, { recursive: true }),
  };
}

/** Steps long enough to be caught in the middle of one. */
export function slowModel(): TinyModel {
  const model = tinyModel({
    layers: 4,
    heads: 16,
    keyValueHeads: 16,
    hiddenSize: 128,
    embeddingSize: 128,
    intermediateSize: 512,
    contextLength: 4096,
  });
  model.options.maxRows = 512;
  return model;
}

export const densePlan = (layers = 2): NativePlan => ({
  method: 'dense',
  warmupTokens: 5,
  warmupStart: 0,
  clustering: 'kmeans',
  headGroups: 1,
  layers: Array.from({ length: layers }, () => ({ clusters: 4, keyHeads: 0 })),
});

export const chaiPlan = (layers = 2, clusters = 2): NativePlan => ({
  ...densePlan(layers),
  method: 'chai',
  layers: Array.from({ length: layers }, () => ({ clusters, keyHeads: 0 })),
});

export const generateOptions = (overrides: Partial<NativeGenerateOptions> = {}): NativeGenerateOptions => ({
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  seed: 1,
  logprobs: false,
  maxTokens: 16,
  stopTokens: new Int32Array(0),
  ...overrides,
});

export const ids = (count: number, vocabulary = 64): Int32Array => Int32Array.from({ length: count }, (_, i) => (i * 7 + 3) % vocabulary);

/** Code of what a call throws or its promise rejects with; 'nothing' when it succeeds. */
export async function codeOf(call: () => unknown): Promise<string> {
  try {
    await call();
  } catch (error) {
    const { code, message } = error as { code?: string; message?: string };
    return typeof message === 'string' && message.length > 0 ? String(code) : 'no message';
  }
  return 'nothing';
}

v8.setFlagsFromString('--expose-gc');
const gc = vm.runInNewContext('gc') as () => void;

/** Collects garbage until `done`, or gives up after 10 seconds. */
export async function collectUntil(done: () => boolean): Promise<boolean> {
  for (let round = 0; round < 500; round++) {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 20));
    if (done()) return true;
  }
  return false;
}

/** Collects garbage until the numbers of memoryUsage stand still. */
export async function collect(): Promise<void> {
  let [before, equal] = [-1, 0];
  await collectUntil(() => {
    const now = externalBytes();
    equal = now === before ? equal + 1 : 0;
    before = now;
    return equal === 3;
  });
}

/** Bytes outside the heap that V8 was told of, without those of ordinary array buffers. */
export function externalBytes(): number {
  const { external, arrayBuffers } = process.memoryUsage();
  return external - arrayBuffers;
}

/** Arguments of node that let it run TypeScript. */
export const typescript = ['--require', createRequire(__filename).resolve('tsx/cjs')];

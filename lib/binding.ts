// Types the whole surface of the native addon and loads it when it is first used (addon_loader.ts finds it).
// In: plain numbers, typed arrays and file positions. Out: typed handles; every failure carries a `code` of errors.ts.
import path from 'node:path';
import { loadAddon } from './addon_loader';

/** Element type of weights and caches. */
export type ElementType = 'float32' | 'float16' | 'bfloat16';

/** Where one weight matrix or vector lies: `rows x columns` elements, row-major, at byte `offset` of `files[file]`. Vectors have one row. */
export interface NativeTensor {
  file: number;
  offset: number;
  type: ElementType;
  rows: number;
  columns: number;
}

/** Names of a layer's weights in the engine. `query.weight` has heads * headDim rows; norms have one row. */
export type LayerSlot =
  | 'attentionNorm.weight'
  | 'attentionNorm.bias'
  | 'query.weight'
  | 'query.bias'
  | 'key.weight'
  | 'key.bias'
  | 'value.weight'
  | 'value.bias'
  | 'attentionOutput.weight'
  | 'attentionOutput.bias'
  | 'feedForwardNorm.weight'
  | 'feedForwardNorm.bias'
  | 'gate.weight'
  | 'gate.bias'
  | 'up.weight'
  | 'up.bias'
  | 'down.weight'
  | 'down.bias';

/** Names of the weights outside the layers. A tied output embedding names the same file position as `tokenEmbedding`. */
export type ModelSlot =
  | 'tokenEmbedding'
  | 'positionEmbedding'
  | 'embeddingProjection'
  | 'finalNorm.weight'
  | 'finalNorm.bias'
  | 'outputProjection'
  | 'output';

/** The shape of the network, as numbers; mirrors native/config.h. */
export interface NativeConfig {
  layers: number;
  heads: number;
  keyValueHeads: number;
  headDim: number;
  hiddenSize: number;
  /** Width of the token embedding; differs from hiddenSize only with an embedding projection (OPT). */
  embeddingSize: number;
  intermediateSize: number;
  vocabularySize: number;
  contextLength: number;
  norm: 'rms' | 'layer';
  normEpsilon: number;
  /** 'before': norm, then block, then residual; 'after': block, residual, then norm (OPT-350m style). */
  normPlacement: 'before' | 'after';
  activation: 'silu' | 'relu' | 'gelu' | 'gelu-tanh';
  /** down(act(gate x) * up x) when true, down(act(up x)) when false. */
  gatedFeedForward: boolean;
  attentionScale: number;
  /** Keys a query sees, itself included; 0 = all before it. */
  slidingWindow: number;
  /** headDim/2 rotary inverse frequencies (scaling applied); empty = no rotary embedding. */
  rotaryFrequencies: Float32Array;
  /** Factor on cos and sin (1 for every scaling supported now). */
  rotaryScale: number;
  /** Added to a position before the learned position row is looked up (OPT: 2). Meaningful with `positionEmbedding`. */
  positionOffset: number;
}

/** The resolved tables of one layer for one sequence: which query heads share a score slot, and which key and value heads are cached. */
export interface LayerHeads {
  /** Layer whose scores this one uses: itself, unless scores are shared across layers. */
  scoresFrom: number;
  /** [heads] query head -> score slot: heads of one slot are a cluster. */
  scoreOfQuery: number[];
  /** [clusters] score slot -> the query head that computes it, its representative. */
  queryOfScore: number[];
  /** [clusters] score slot -> slot of the K cache. */
  keyOfScore: number[];
  /** Slot of the K cache -> key head. */
  keptKeys: number[];
  /** [heads] query head -> slot of the V cache. */
  valueOfQuery: number[];
  /** Slot of the V cache -> value head. */
  keptValues: number[];
}

/** One layer of a head plan as the engine takes it. Exactly one kind applies: `map` (explicit), `clusterOf` (static), or `clusters` alone (found online). */
export interface NativePlanLayer {
  clusters: number;
  /** Most distinct key heads the representatives may use; 0 = no constraint. */
  keyHeads: number;
  clusterOf?: number[];
  representatives?: number[];
  map?: LayerHeads;
}

export interface NativePlan {
  method: 'dense' | 'chai' | 'chai-static' | 'explicit';
  warmupTokens: number;
  warmupStart: number;
  clustering: 'kmeans' | 'average-linkage-cosine';
  headGroups: number;
  layers: NativePlanLayer[];
}

export interface NativeLoadOptions {
  config: NativeConfig;
  files: string[];
  weights: Partial<Record<ModelSlot, NativeTensor>>;
  layers: Partial<Record<LayerSlot, NativeTensor>>[];
  /** 'cpu', 'cuda' or 'cuda:N'; never 'auto' (lib decides with devices()). */
  device: string;
  cacheType: ElementType;
  /** Tokens the K/V pool holds at full head count, over all sequences. */
  cacheTokens: number;
  /** Most sequences in one step. */
  maxBatch: number;
  /** Most rows in one step (prefill chunk budget). */
  maxRows: number;
  /** Compute threads; 0 = physical cores. */
  threads: number;
  mmap: boolean;
}

export interface NativeSampling {
  temperature: number; // 0 = greedy
  topK: number; // 0 = off
  topP: number; // 1 = off
  minP: number; // 0 = off
  repetitionPenalty: number; // 1 = off
  seed: number; // unsigned 32-bit or a safe integer
  logprobs: boolean;
}

export interface NativeGenerateOptions extends NativeSampling {
  maxTokens: number;
  /** Token ids that end the generation (empty with ignoreEos). They are not delivered and not kept in the sequence. */
  stopTokens: Int32Array;
}

/** Tokens ready since the last pull; `finish` is set with the last ones. */
export interface NativeTokens {
  ids: Int32Array;
  /** log-probability of each id under the unmodified softmax; empty unless asked for. */
  logprobs: Float32Array;
  finish?: 'stop' | 'length';
  /** The id that stopped the generation, with finish 'stop'. */
  stopToken?: number;
}

export interface NativeTimings {
  /** Milliseconds the engine worked on this request, and rows it computed. */
  promptMs: number;
  promptTokens: number;
  decodeMs: number;
  decodeTokens: number;
}

/** One running generation. Pull with next(); at most one next() at a time. */
export interface NativeGeneration {
  next(): Promise<NativeTokens>;
  /** Ends the work and rolls the sequence back to prompt + `delivered` generated tokens. Idempotent; resolves when the sequence is free again. */
  stop(delivered: number): Promise<void>;
  timings(): NativeTimings;
}

export interface NativeCacheBytes {
  keys: number;
  values: number;
  denseKeys: number;
  denseValues: number;
}

/** One sequence with its K/V cache. One job at a time (SESSION_BUSY otherwise). */
export interface NativeSequence {
  /** Appends ids and resolves with: 'none' -> empty, 'last' -> [vocabulary], 'all' -> [ids x vocabulary], 'score' -> [ids] log-probability of each id given all before it (the first of an empty sequence is NaN). */
  evaluate(ids: Int32Array, result: 'none' | 'last' | 'all' | 'score', job: NativeCancel): Promise<Float32Array>;
  generate(ids: Int32Array, options: NativeGenerateOptions): NativeGeneration;
  /** All ids of the sequence, in order (cached and the pending last one). */
  tokens(): Int32Array;
  truncate(length: number): void;
  fork(): NativeSequence;
  /** undefined until membership is known. */
  headMaps(): LayerHeads[] | undefined;
  cacheBytes(): NativeCacheBytes;
  /**
   * Inner products of the heads' warm-up features over their first rows[i] rows: [rows x layers x heads x heads]. For a session of method
   * chai that still warms up; `rows` ascend and are at most the warm-up tokens evaluated.
   */
  headGram(rows: Int32Array): Promise<Float64Array>;
  /** Idempotent; running work ends within one step, its promise rejects with CLOSED. */
  close(): Promise<void>;
}

/** Token to cancel a job from outside: set `cancel` is filled in by the addon when the job starts. */
export interface NativeCancel {
  cancel?: () => void;
}

export interface NativeMemory {
  /** Bytes of the weights. */
  weights: number;
  /** Bytes of the K/V pages that sessions hold now. */
  cacheUsed: number;
  /** Bytes of the whole K/V pool; memory is taken as pages are used. */
  cacheReserved: number;
  /** Bytes of a step's buffers. */
  buffers: number;
}

export interface NativeStats {
  /** Steps run since loading: passes over the weights. */
  steps: number;
  /** Tokens computed in them, of prompts and generated ones. */
  rows: number;
  /** Largest number of sequences in one step so far. */
  largestBatch: number;
  /** Milliseconds spent in steps. */
  stepMs: number;
}

export interface NativeModel {
  createSequence(plan: NativePlan): NativeSequence;
  memory(): NativeMemory;
  stats(): NativeStats;
  device(): string;
  close(): Promise<void>;
}

export interface NativeDevice {
  /** 'cpu' or 'cuda:N', as option `device` takes it; 'cuda' stands for all where there is none. */
  id: string;
  /** The maker's name of it. */
  name: string;
  usable: boolean;
  /** Why not, when not usable. */
  reason?: string;
  /** Memory in bytes: all of it, and what may still be taken (limits of control groups count). */
  totalBytes: number;
  freeBytes: number;
  /** CPU: instruction set chosen and physical cores; CUDA: compute capability. */
  detail: string;
}

export interface NativeBinding {
  /** `onProgress` is called on the event loop with bytes read and bytes in all. `job.cancel()` rejects with ABORTED. */
  load(options: NativeLoadOptions, job: NativeCancel, onProgress?: (done: number, total: number) => void): Promise<NativeModel>;
  /** All. May take a while where there is a GPU: its driver is asked. */
  devices(): NativeDevice[];
  /**
   * On a thread: the CPU, and the devices that the option `device` of a model may mean. A GPU among them is opened, so that `freeBytes` is
   * what is left with that; others sleep on.
   */
  findDevices(device: string): Promise<NativeDevice[]>;
  /** Bytes of host memory that may still be taken; limits of control groups count. */
  availableBytes(): number;
  /** Clusters one layer from features; the function behind the online phase, exposed for tools and tests. `features`: [heads x length]. */
  clusterHeads(
    features: Float64Array,
    heads: number,
    plan: { clusters: number; clustering: NativePlan['clustering']; headGroups: number; keyValueHeads: number; keyHeads: number },
  ): { clusterOf: number[]; representatives: number[] };
}

/**
 * The addon, loaded at its first use and once per process or worker thread: importing the package works where the addon does not, and what
 * needs it throws ADDON_UNAVAILABLE.
 */
export const native = new Proxy<{ addon?: NativeBinding }>(
  {},
  {
    get(loaded, name) {
      loaded.addon ??= loadAddon(path.join(__dirname, '..')) as NativeBinding;
      return loaded.addon[name as keyof NativeBinding];
    },
  },
) as NativeBinding;

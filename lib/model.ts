// A loaded model. In: a model directory and options. Out: generations, sessions, the tokenizer; everything is freed by close().
import { setImmediate as turn } from 'node:timers/promises';
import type { Architecture } from './architectures/architecture';
import {
  type ElementType,
  type NativeCancel,
  type NativeDevice,
  type NativeMemory,
  type NativeModel,
  type NativePlan,
  type NativeStats,
  native,
} from './binding';
import { onAbort, unlessAborted } from './cancel';
import { describeConfig, type ModelConfig, readArchitecture } from './config';
import { abortError, ChaiError, callerStack, messageOf, toChaiError } from './errors';
import { type Completion, complete, type Generation } from './generation';
import { warnOfUnusedGpu } from './gpu_warning';
import { type Attention, resolveAttention } from './head_plan';
import { cacheBytesPerToken, planCache, weightBytes } from './memory_budget';
import { findModelFiles, type ModelFiles } from './model_files';
import {
  type CheckedLoadOptions,
  checkLoadOptions,
  checkSessionOptions,
  type GenerateOptions,
  type LoadOptions,
  type LoadProgress,
  type Prompt,
} from './options';
import { Session, type SessionContext } from './session';
import { Tokenizer } from './tokenizer';
import { TokenizerChannel } from './tokenizer_channel';

const stepRows = 512; // rows of one step: long prompts are computed in chunks of this many tokens

/**
 * Bytes the model takes: weights, K/V pages in use, the whole K/V pool (committed as it is used), buffers of a step.
 * @interface
 */
export type ModelMemory = NativeMemory;
/**
 * Steps run, rows computed in them, the most sequences in one step, milliseconds spent.
 * @interface
 */
export type ModelStats = NativeStats;

/** Ends the tokenizer threads of models that were dropped without close(). */
const dropped = new FinalizationRegistry<TokenizerChannel>((channel) => void channel.close());

/**
 * Loads a model from a directory in the Hugging Face layout: config.json, tokenizer.json, *.safetensors, and optionally head-plan.json.
 * @throws {ChaiError} MODEL_NOT_FOUND, MODEL_INVALID, UNSUPPORTED_MODEL, PLAN_INVALID, OPTION_INVALID, OUT_OF_MEMORY, DEVICE_UNAVAILABLE, ABORTED
 */
export async function loadModel(directory: string, options?: LoadOptions): Promise<Model> {
  const stack = callerStack(loadModel);
  try {
    if (typeof directory !== 'string' || directory === '')
      throw new ChaiError('OPTION_INVALID', 'loadModel: the first argument must be the path of a model directory');
    const checked = checkLoadOptions(options);
    throwIfAborted(checked.signal);
    return await load(directory, checked);
  } catch (error) {
    throw toChaiError(error, stack);
  }
}

async function load(directory: string, options: CheckedLoadOptions): Promise<Model> {
  const files = await findModelFiles(directory);
  await turn();
  let architecture = readArchitecture(files, options.contextLength);
  const plan = await resolveAttention(options.attention, architecture.config, files.headPlan);
  throwIfAborted(options.signal);
  const found = await native.findDevices(options.device);
  const device = chooseDevice(options.device, found);
  if (options.device === 'auto' && device === 'cpu') await warnOfUnusedGpu(found);
  const cacheType = options.cacheType === 'auto' ? defaultCacheType(architecture, device) : options.cacheType;
  const tensors = [...Object.values(architecture.weights), ...architecture.layers.flatMap((layer) => Object.values(layer))];
  const { contextLength, cacheTokens } = planCache(
    { ...options, contextLength: architecture.config.contextLength, contextIsFixed: options.contextLength !== undefined },
    cacheBytesPerToken(architecture.config, cacheType),
    weightBytes(tensors),
    freeBytes(device, found),
  );
  if (contextLength !== architecture.config.contextLength) architecture = readArchitecture(files, contextLength);
  await turn(); // starting a thread takes a millisecond or two by itself
  const channel = new TokenizerChannel(files);
  try {
    reportProgress(options, 'tokenizer', 0, weightBytes(tensors));
    await unlessAborted(checkVocabulary(channel, architecture), options.signal, 'loading');
    const loaded = await loadNative({ files, architecture, device, cacheType, cacheTokens }, options);
    await provePlan(loaded, plan);
    const model = new Model(loaded, files, architecture, channel, plan, device);
    dropped.register(model, channel, channel);
    return model;
  } catch (error) {
    await channel.close();
    throw error;
  }
}

/** A plan that the engine refuses fails the load, not the first request. */
async function provePlan(loaded: NativeModel, plan: NativePlan): Promise<void> {
  try {
    await loaded.createSequence(plan).close();
  } catch (error) {
    await loaded.close();
    throw error;
  }
}

interface Chosen {
  files: ModelFiles;
  architecture: Architecture;
  device: string;
  cacheType: ElementType;
  cacheTokens: number;
}

async function loadNative(chosen: Chosen, options: CheckedLoadOptions): Promise<NativeModel> {
  const { signal, threads, mmap, maxBatch } = options;
  const { files, architecture, device, cacheType, cacheTokens } = chosen;
  const { config, weights, layers } = architecture;
  const job: NativeCancel = {};
  const cancel = () => job.cancel?.();
  const release = onAbort(signal, cancel);
  let refused: unknown; // what onProgress threw: it must not escape into the event loop
  const report = (loaded: number, total: number) => {
    try {
      if (refused === undefined) reportProgress(options, 'weights', loaded, total);
    } catch (error) {
      refused = error;
      cancel();
    }
  };
  try {
    if (signal?.aborted) throw abortError(signal, 'loading'); // it may have fired just before anybody listened
    const maxRows = Math.max(stepRows, maxBatch);
    const request = { config, weights, layers, files: files.weightFiles, device, cacheType, cacheTokens, maxBatch, maxRows, threads, mmap };
    const loaded = await native.load(request, job, options.onProgress && report);
    if (refused === undefined) return loaded;
    await loaded.close();
    throw refused;
  } catch (error) {
    if (refused !== undefined) throw refused;
    if (signal?.aborted) throw abortError(signal, 'loading');
    throw error;
  } finally {
    release();
  }
}

function reportProgress({ onProgress }: CheckedLoadOptions, phase: LoadProgress['phase'], loaded: number, total: number): void {
  try {
    onProgress?.({ phase, loaded, total, fraction: total > 0 ? loaded / total : 1 });
  } catch (error) {
    throw new ChaiError('OPTION_INVALID', `onProgress threw: ${messageOf(error)}`, { cause: error });
  }
}

async function checkVocabulary(channel: TokenizerChannel, { config }: Architecture): Promise<void> {
  const { size } = await channel.load();
  if (size > config.vocabularySize)
    throw new ChaiError(
      'MODEL_INVALID',
      `tokenizer.json has ids up to ${size - 1}, but the embedding has ${config.vocabularySize} rows; the two do not belong together`,
    );
}

/** Bytes that may still be taken there; limits of control groups count. */
function freeBytes(device: string, found: readonly NativeDevice[]): number {
  return found.find(({ id, usable }) => id === device && usable)?.freeBytes ?? Number.POSITIVE_INFINITY;
}

function chooseDevice(wish: string, found: readonly NativeDevice[]): string {
  if (wish === 'cuda') return 'cuda:0';
  if (wish !== 'auto') return wish;
  return found.find(({ id, usable }) => id.startsWith('cuda') && usable)?.id ?? 'cpu';
}

function defaultCacheType({ weights }: Architecture, device: string): ElementType {
  return device === 'cpu' && weights.tokenEmbedding?.type === 'float32' ? 'float32' : 'float16';
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal, 'loading');
}

/** Ids beyond the vocabulary never come up. */
function endOfSequenceIds({ generationConfig, config }: ModelFiles, vocabularySize: number): number[] {
  const ids = generationConfig.eos_token_id ?? config.eos_token_id;
  return (Array.isArray(ids) ? ids : [ids]).filter((id): id is number => Number.isInteger(id) && id >= 0 && id < vocabularySize);
}

/** A model in memory; made by `loadModel()`. Any number of generations and sessions run at the same time and are computed together. */
export class Model {
  /** The network's shape. */
  readonly config: ModelConfig;
  /** Text -> token ids and back, on the calling thread. Prompts do not need it: `generate` takes text. */
  readonly tokenizer: Tokenizer;
  readonly #native: NativeModel;
  readonly #files: ModelFiles;
  readonly #architecture: Architecture;
  readonly #channel: TokenizerChannel;
  readonly #plan: NativePlan;
  readonly #device: string;
  readonly #context: SessionContext;
  #closing: Promise<void> | undefined;

  /** @internal Use `loadModel()`. */
  constructor(
    loaded: NativeModel,
    files: ModelFiles,
    architecture: Architecture,
    channel: TokenizerChannel,
    plan: NativePlan,
    device: string,
  ) {
    this.#native = loaded;
    this.#files = files;
    this.#architecture = architecture;
    this.#channel = channel;
    this.#plan = plan;
    this.#device = device;
    this.config = describeConfig(architecture, files);
    this.tokenizer = new Tokenizer(files);
    this.#context = {
      owner: this,
      channel,
      stopTokens: endOfSequenceIds(files, this.config.vocabularySize),
      contextLength: this.config.contextLength,
      vocabularySize: this.config.vocabularySize,
      availableBytes: () => native.availableBytes(),
    };
  }

  /** 'cpu' or 'cuda:N'. */
  get device(): string {
    return this.#device;
  }

  /** How sessions attend unless they say otherwise: 'dense', 'chai', 'chai-static' or 'explicit'. */
  get attention(): NativePlan['method'] {
    return this.#plan.method;
  }

  /** Bytes taken now; cheap enough for a metrics endpoint. */
  get memory(): ModelMemory {
    return this.#call(() => this.#native.memory());
  }

  /** What the engine did since loading; cheap enough for a metrics endpoint. */
  get stats(): ModelStats {
    return this.#call(() => this.#native.stats());
  }

  /** What computes: instruction set and threads, or the GPU's name. */
  get deviceDescription(): string {
    return this.#call(() => this.#native.device());
  }

  /**
   * A sequence of its own whose cache stays between calls. `attention` overrides how the model attends.
   * @throws {ChaiError} OPTION_INVALID, PLAN_INVALID, CLOSED
   */
  async createSession(options?: { attention?: Attention }): Promise<Session> {
    const stack = callerStack(this.createSession);
    try {
      const { attention } = checkSessionOptions(options);
      this.#open();
      const plan =
        attention === undefined ? this.#plan : await resolveAttention(attention, this.#architecture.config, this.#files.headPlan);
      return this.#session(plan);
    } catch (error) {
      throw toChaiError(error, stack);
    }
  }

  /**
   * Generates after a prompt in a session of its own; concurrent calls are computed together.
   * @throws {ChaiError} OPTION_INVALID at once; CONTEXT_OVERFLOW, OUT_OF_MEMORY, ABORTED, CLOSED while iterating.
   */
  generate(prompt: Prompt, options?: GenerateOptions): Generation {
    return this.#generate(prompt, options, callerStack(this.generate));
  }

  /**
   * As `generate`, to the end.
   * @throws {ChaiError} OPTION_INVALID, CONTEXT_OVERFLOW, OUT_OF_MEMORY, ABORTED, CLOSED
   */
  async complete(prompt: Prompt, options?: GenerateOptions): Promise<Completion> {
    const stack = callerStack(this.complete);
    try {
      return await complete(this.#generate(prompt, options, stack));
    } catch (error) {
      throw toChaiError(error, stack);
    }
  }

  /** @internal Text -> token ids on the tokenizer's thread: for texts so long that the event loop would stand still. */
  encode(text: string, addSpecialTokens: boolean): Promise<Int32Array> {
    this.#open();
    return this.#channel.encode(text, addSpecialTokens);
  }

  /** Frees weights and cache; running work ends within one step with CLOSED. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      dropped.unregister(this.#channel);
      await Promise.all([this.#native.close(), this.#channel.close()]);
    })();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** The session is made when the iteration begins, and closed when it ends. */
  #generate(prompt: Prompt, options: GenerateOptions | undefined, stack: string): Generation {
    this.#open();
    return Session.generateOnce(() => this.#session(this.#plan), prompt, options, stack);
  }

  #session(plan: NativePlan): Session {
    return new Session(
      this.#call(() => this.#native.createSequence(plan)),
      this.#context,
    );
  }

  #open(): void {
    if (this.#closing) throw new ChaiError('CLOSED', 'the model is closed; load it again');
  }

  #call<Result>(call: () => Result): Result {
    try {
      return call();
    } catch (error) {
      throw toChaiError(error);
    }
  }
}

// One sequence with its K/V cache, turn after turn. In: prompts, token ids. Out: generations, logits, scores. One job at a time.
import type { LayerHeads, NativeCancel, NativeSequence } from './binding';
import { onAbort, unlessAborted } from './cancel';
import { checkMessages } from './chat_template';
import { abortError, ChaiError, callerStack, reading, toChaiError } from './errors';
import { type Completion, complete, Generation, type Started } from './generation';
import {
  type CheckedGenerateOptions,
  checkEvaluateOptions,
  checkGenerateOptions,
  checkIds,
  checkScoreOptions,
  type GenerateOptions,
  type Prompt,
  shown,
} from './options';
import { contextIds } from './text_stream';
import type { TokenizerChannel } from './tokenizer_channel';

/** Bytes of K/V pages (64 tokens of one head each), counted by the page allocator. */
export interface CacheBytes {
  /** Held now for keys. */
  keys: number;
  /** Held now for values. */
  values: number;
  /** What the same tokens would hold at full head count. */
  denseKeys: number;
  denseValues: number;
}

/** What a session shares with its model. */
export interface SessionContext {
  /** The model itself: it must not be collected while a session lives. */
  owner: object;
  channel: TokenizerChannel;
  stopTokens: number[];
  contextLength: number;
  vocabularySize: number;
  /** Bytes of main memory that may still be taken. */
  availableBytes(): number;
}

/** One sequence of tokens with its K/V cache; made by `model.createSession()`. It does one thing at a time: a second call meanwhile is SESSION_BUSY. */
export class Session {
  readonly #native: NativeSequence;
  readonly #context: SessionContext;
  #busy = false;
  #closing: Promise<void> | undefined;

  /** @internal Use `model.createSession()`. */
  constructor(native: NativeSequence, context: SessionContext) {
    this.#native = native;
    this.#context = context;
  }

  /** Ids of all tokens of this session, prompts and generated ones, in order. */
  get tokens(): readonly number[] {
    return this.#call(() => Array.from(this.#native.tokens()));
  }

  /** The resolved head tables, one a layer (CHAI, section 3), once known: after warmupStart + warmupTokens tokens with CHAI, else at once. */
  get headMaps(): LayerHeads[] | undefined {
    return this.#call(() => this.#native.headMaps());
  }

  /** The K/V cache that this session holds, beside what it would be dense. */
  get cacheBytes(): CacheBytes {
    return this.#call(() => this.#native.cacheBytes());
  }

  /**
   * Appends the prompt and generates after it. An empty prompt goes on from the last token.
   * @throws {ChaiError} OPTION_INVALID at once; SESSION_BUSY, CONTEXT_OVERFLOW, OUT_OF_MEMORY, ABORTED, CLOSED while iterating.
   */
  generate(prompt: Prompt, options?: GenerateOptions): Generation {
    return this.#generate(prompt, options, callerStack(this.generate));
  }

  /**
   * As `generate`, to the end.
   * @throws {ChaiError} OPTION_INVALID, SESSION_BUSY, CONTEXT_OVERFLOW, OUT_OF_MEMORY, ABORTED, CLOSED
   */
  complete(prompt: Prompt, options?: GenerateOptions): Promise<Completion> {
    const stack = callerStack(this.complete);
    return attempt(() => complete(this.#generate(prompt, options, stack)), stack);
  }

  /** @internal A generation in a session that is made when the iteration begins and closed when it ends. */
  static generateOnce(open: () => Session, prompt: Prompt, given: GenerateOptions | undefined, stack: string): Generation {
    const options = checkGenerateOptions(given);
    checkPrompt(prompt);
    return new Generation(
      async (halt) => {
        const session = open();
        return session.#start(prompt, options, halt, () => session.close());
      },
      options,
      stack,
    );
  }

  /**
   * Appends tokens to the session and gives logits, float32, row-major: 'all' [ids x vocabulary], 'last' (default) [vocabulary],
   * 'none' []. Rows of warm-up tokens are dense, later ones clustered.
   * @throws {ChaiError} OPTION_INVALID, SESSION_BUSY, CONTEXT_OVERFLOW, OUT_OF_MEMORY, ABORTED, CLOSED
   */
  evaluate(
    ids: readonly number[] | Int32Array | Uint32Array,
    options?: { logits?: 'all' | 'last' | 'none'; signal?: AbortSignal },
  ): Promise<Float32Array> {
    const stack = callerStack(this.evaluate);
    return attempt(() => {
      const { logits, signal } = checkEvaluateOptions(options);
      return this.#evaluate(checkIds(ids, 'evaluate'), logits, signal, stack);
    }, stack);
  }

  /**
   * Appends tokens and gives the natural log-probability of each, given all before it. The first token of an empty session has none: NaN.
   * @throws {ChaiError} OPTION_INVALID, SESSION_BUSY, CONTEXT_OVERFLOW, OUT_OF_MEMORY, ABORTED, CLOSED
   */
  score(ids: readonly number[] | Int32Array | Uint32Array, options?: { signal?: AbortSignal }): Promise<number[]> {
    const stack = callerStack(this.score);
    return attempt(async () => {
      const { signal } = checkScoreOptions(options);
      return Array.from(await this.#evaluate(checkIds(ids, 'score'), 'score', signal, stack));
    }, stack);
  }

  /**
   * @internal Inner products of the heads' warm-up features (causal softmax rows of tokens warmupStart, ...) over the first rows[i] of them:
   * [rows x layers x heads x heads]. The session's method must be chai, and fewer tokens evaluated than its warm-up has; rows ascend.
   */
  async headGram(rows: readonly number[]): Promise<Float64Array> {
    this.#idle();
    this.#busy = true;
    try {
      return await this.#native.headGram(Int32Array.from(rows));
    } catch (error) {
      throw toChaiError(error);
    } finally {
      this.#busy = false;
    }
  }

  /**
   * Keeps the first `length` tokens: 0, or at least warmupStart + warmupTokens (membership depends on these).
   * @throws {ChaiError} OPTION_INVALID with the lengths that are possible, SESSION_BUSY, CLOSED
   */
  truncate(length: number): void {
    if (!Number.isInteger(length) || length < 0 || length > 0x7fffffff)
      throw new ChaiError('OPTION_INVALID', `truncate: length must be a whole number from 0, not ${shown(length)}`);
    this.#idle();
    this.#call(() => this.#native.truncate(length));
  }

  /**
   * A second session with the same tokens; both share the cache's pages until one of them writes.
   * @throws {ChaiError} SESSION_BUSY, CLOSED
   */
  fork(): Session {
    this.#idle();
    return new Session(
      this.#call(() => this.#native.fork()),
      this.#context,
    );
  }

  /** Frees the cache. Running work ends within one step with CLOSED. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#native.close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #generate(prompt: Prompt, given: GenerateOptions | undefined, stack: string): Generation {
    const options = checkGenerateOptions(given);
    checkPrompt(prompt);
    return new Generation((halt) => this.#start(prompt, options, halt, async () => {}), options, stack);
  }

  /** Begins the work; `after` runs when it has ended, however it ends. */
  async #start(prompt: Prompt, options: CheckedGenerateOptions, halt: AbortSignal, after: () => Promise<void>): Promise<Started> {
    this.#idle();
    this.#busy = true;
    const release = async () => {
      this.#busy = false;
      await after();
    };
    try {
      const before = this.#native.tokens(); // later the engine may have added to them
      const ids = await unlessAborted(this.#encode(prompt, before.length === 0), halt, 'the generation');
      const native = this.#native.generate(ids, {
        ...options,
        maxTokens: options.maxTokens ?? this.#context.contextLength,
        stopTokens: Int32Array.from(options.ignoreEos ? [] : this.#context.stopTokens),
      });
      const context = [...before.slice(-contextIds), ...ids.slice(-contextIds)].slice(-contextIds);
      return { native, promptTokens: ids.length, stream: this.#context.channel.open(context), release };
    } catch (error) {
      await release();
      throw error;
    }
  }

  /** A beginning-of-sequence token belongs at the beginning only: text that goes on in a session gets no special tokens. */
  async #encode(prompt: Prompt, isFirst: boolean): Promise<Int32Array> {
    const { channel } = this.#context;
    if (typeof prompt === 'string') return channel.encode(prompt, isFirst);
    if ('messages' in prompt) return channel.encodeChat(prompt.messages);
    return checkIds(prompt, 'generate');
  }

  async #evaluate(
    ids: Int32Array,
    result: 'none' | 'last' | 'all' | 'score',
    signal: AbortSignal | undefined,
    stack: string,
  ): Promise<Float32Array> {
    if (signal?.aborted) throw abortError(signal, 'the evaluation');
    this.#idle();
    if (result === 'all') this.#checkRoom(ids.length * this.#context.vocabularySize * Float32Array.BYTES_PER_ELEMENT);
    this.#busy = true;
    const job: NativeCancel = {};
    let release = () => {};
    try {
      release = onAbort(signal, () => job.cancel?.());
      return await this.#native.evaluate(ids, result, job);
    } catch (error) {
      throw toChaiError(error, stack);
    } finally {
      this.#busy = false; // first: a signal of the caller's own making may throw
      release();
    }
  }

  /** Large results only: asking the system takes some tenths of a millisecond. */
  #checkRoom(bytes: number): void {
    if (bytes < 2 ** 26) return;
    const available = this.#context.availableBytes();
    if (bytes > available)
      throw new ChaiError(
        'OUT_OF_MEMORY',
        `all logits of these tokens take ${bytes} bytes, but ${available} are available; evaluate fewer tokens at a time, or ask for the last logits`,
      );
  }

  #idle(): void {
    if (this.#closing) throw new ChaiError('CLOSED', 'the session is closed; open a new one');
    if (this.#busy)
      throw new ChaiError('SESSION_BUSY', 'the session is working on another request; await it, stop it, or use a session of its own');
  }

  #call<Result>(call: () => Result): Result {
    try {
      return call();
    } catch (error) {
      throw toChaiError(error);
    }
  }
}

function checkPrompt(prompt: unknown): void {
  reading('generate', () => provePrompt(prompt));
}

function provePrompt(prompt: unknown): void {
  const ids = Array.isArray(prompt) || prompt instanceof Int32Array || prompt instanceof Uint32Array;
  const messages = typeof prompt === 'object' && prompt !== null && 'messages' in prompt;
  if (typeof prompt !== 'string' && !ids && !messages)
    throw new ChaiError('OPTION_INVALID', 'generate: the prompt must be a string, token ids or { messages }');
  if (Array.isArray(prompt) && typeof prompt[0] === 'object')
    throw new ChaiError('OPTION_INVALID', 'generate: a list must hold token ids; a conversation is given as { messages: [...] }');
  if (messages && !ids) checkMessages(prompt.messages, 'generate');
}

/** Runs `work`; whatever it throws, now or later, becomes a rejection with the caller's stack. */
async function attempt<Result>(work: () => Promise<Result>, stack: string): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    throw toChaiError(error, stack);
  }
}

// One running generation as an async iterator of tokens. In: a prepared native generation and a text stream. Out: tokens, then totals.
import type { NativeGeneration, NativeTokens } from './binding';
import { onAbort, unlessAborted } from './cancel';
import { abortError, ChaiError, toChaiError } from './errors';
import type { CheckedGenerateOptions } from './options';
import { StopStrings } from './text_stream';

export interface Token {
  /** Its number in the vocabulary. */
  id: number;
  /** The text this token completes; empty while a character or a possible stop string is unfinished. All texts joined are the output. */
  text: string;
  /** Natural log-probability, with option `logprobs`. */
  logprob?: number;
}

/** Tokens of one call. */
export interface Usage {
  /** Tokens of this call's prompt; what the session held before is not among them. */
  promptTokens: number;
  /** Tokens handed out. */
  completionTokens: number;
  /** Both together. */
  totalTokens: number;
}

/** Milliseconds and rates of one call. `prompt` and `decode` are the engine's steps that had this call in them; the others are wall-clock time. */
export interface Timings {
  /** Steps that computed the prompt. */
  promptMs: number;
  promptTokensPerSecond: number;
  /** Steps that computed one generated token each. */
  decodeMs: number;
  decodeTokensPerSecond: number;
  /** From the start of the iteration to the first token, tokenizing and waiting included. */
  timeToFirstTokenMs: number;
  /** From the start of the iteration to its end, the reader's own time included. */
  totalMs: number;
}

/** 'stop': an end-of-sequence token or a stop string; 'length': maxTokens reached or the context is full. */
export type FinishReason = 'stop' | 'length';

/** A generation run to its end. */
export interface Completion {
  /** The generated text alone, without the prompt and without a stop string. */
  text: string;
  usage: Usage;
  timings: Timings;
  finishReason: FinishReason;
}

/** What session.ts prepares: the work begun, the text stream opened, and how to let go of both. */
export interface Started {
  native: NativeGeneration;
  promptTokens: number;
  stream: { push(ids: number[]): Promise<string[]>; close(): Promise<string> };
  release(): Promise<void>;
}

/**
 * Tokens as they come: `for await (const token of generation)`. Work begins with the first `next()`; leaving the loop ends it within
 * one step and keeps in the session just the tokens that were handed out. Can be iterated once.
 */
export class Generation implements AsyncIterableIterator<Token> {
  /** Why it ended; set once the iteration has ended, as the next two are. */
  finishReason: FinishReason | undefined;
  /** Tokens of the prompt and tokens handed out. */
  usage: Usage | undefined;
  /** Milliseconds and rates. */
  timings: Timings | undefined;

  readonly #tokens: AsyncGenerator<Token, void, void>;
  /** Fires when no more tokens are wanted, for whatever reason. */
  readonly #halt = new AbortController();
  #stopped = false;

  /** @internal `start` begins the work; it gives up, freeing all it took, when its signal fires. */
  constructor(start: (halt: AbortSignal) => Promise<Started>, options: CheckedGenerateOptions, stack: string) {
    this.#tokens = this.#run(start, options, stack);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
  next(): Promise<IteratorResult<Token, void>> {
    return this.#tokens.next();
  }
  return(): Promise<IteratorResult<Token, void>> {
    this.stop(); // else a pending next() would first run to its token, through a long prompt perhaps
    return this.#tokens.return();
  }
  throw(error: unknown): Promise<IteratorResult<Token, void>> {
    this.stop();
    return this.#tokens.throw(error);
  }

  /** Ends the generation within one step; the iteration then ends without an error. Text still held back is dropped. */
  stop(): void {
    this.#stopped = true;
    this.#halt.abort();
  }

  /** Runs to the end and gives all the text. */
  async text(): Promise<string> {
    let text = '';
    for await (const token of this) text += token.text;
    return text;
  }

  async *#run(
    start: (halt: AbortSignal) => Promise<Started>,
    options: CheckedGenerateOptions,
    stack: string,
  ): AsyncGenerator<Token, void, void> {
    const { signal } = options;
    const clock = new Clock();
    let started: Started | undefined;
    let delivered = 0;
    let release = () => {};
    const halt = () => void started?.native.stop(delivered).catch(() => {});
    this.#halt.signal.addEventListener('abort', halt, { once: true });
    try {
      release = onAbort(signal, () => this.#halt.abort());
      if (signal?.aborted) throw abortError(signal, 'the generation');
      if (this.#stopped) return;
      started = await start(this.#halt.signal);
      if (this.#halt.signal.aborted) halt(); // it fired while the work was handed over
      for await (const token of pieces(started, options, this.#halt.signal, (reason) => (this.finishReason = reason))) {
        if (this.#halt.signal.aborted) break; // the engine was told to keep less
        clock.token();
        if (!token.extra) ++delivered;
        yield token.value;
        if (this.#halt.signal.aborted) break;
      }
      if (signal?.aborted) throw abortError(signal, 'the generation');
    } catch (error) {
      if (signal?.aborted) throw toChaiError(abortError(signal, 'the generation'), stack);
      if (!this.#stopped) throw toChaiError(error, stack);
    } finally {
      this.#halt.signal.removeEventListener('abort', halt);
      await this.#end(started, delivered, clock);
      release(); // last: a signal of the caller's own making may throw
    }
  }

  async #end(started: Started | undefined, delivered: number, clock: Clock): Promise<void> {
    const promptTokens = started?.promptTokens ?? 0;
    this.finishReason ??= 'stop';
    this.usage = { promptTokens, completionTokens: delivered, totalTokens: promptTokens + delivered };
    try {
      await started?.native.stop(delivered);
      this.timings = clock.timings(started?.native);
    } catch {
      // closed meanwhile: nothing is left to roll back
    } finally {
      started?.stream.close().catch(() => {}); // not awaited: the thread may be busy with someone's long prompt
      await started?.release();
    }
  }
}

/** One token, or text that was held back when an end-of-sequence token came (`extra`: it counts as no token of the output). */
interface Piece {
  value: Token;
  extra: boolean;
}

async function* pieces(
  started: Started,
  options: CheckedGenerateOptions,
  halt: AbortSignal,
  finish: (reason: FinishReason) => void,
): AsyncGenerator<Piece> {
  const stops = new StopStrings(options.stop);
  for (;;) {
    const batch = await started.native.next();
    const texts = batch.ids.length > 0 ? await unlessAborted(started.stream.push([...batch.ids]), halt, 'the generation') : [];
    for (const [i, id] of batch.ids.entries()) {
      let text = stops.push(texts[i] ?? '');
      const last = i === batch.ids.length - 1 && batch.finish === 'length';
      if (last && !stops.stopped) text += await held(started, stops);
      if (last) finish('length');
      if (stops.stopped) finish('stop');
      yield { value: token(id, text, batch, i, options), extra: false };
      if (stops.stopped) return;
    }
    if (!batch.finish) continue;
    finish(batch.finish);
    const rest = batch.finish === 'stop' ? await held(started, stops) : '';
    if (rest) yield { value: { id: batch.stopToken ?? -1, text: rest }, extra: true };
    return;
  }
}

/** Text that waited for more: an unfinished character, the start of a stop string. */
async function held(started: Started, stops: StopStrings): Promise<string> {
  return stops.push(await started.stream.close()) + stops.flush();
}

function token(id: number, text: string, batch: NativeTokens, i: number, options: CheckedGenerateOptions): Token {
  return options.logprobs ? { id, text, logprob: batch.logprobs[i] } : { id, text };
}

/** Wall-clock times of an iteration. */
class Clock {
  readonly #start = performance.now();
  #first: number | undefined;

  token(): void {
    this.#first ??= performance.now();
  }
  /** All 0 when no work was begun. */
  timings(native: NativeGeneration | undefined): Timings {
    const none = { promptMs: 0, promptTokens: 0, decodeMs: 0, decodeTokens: 0 };
    const { promptMs, promptTokens, decodeMs, decodeTokens } = native?.timings() ?? none;
    const now = performance.now();
    const rate = (tokens: number, ms: number) => (ms > 0 ? (tokens / ms) * 1000 : 0);
    return {
      promptMs,
      promptTokensPerSecond: rate(promptTokens, promptMs),
      decodeMs,
      decodeTokensPerSecond: rate(decodeTokens, decodeMs),
      timeToFirstTokenMs: (this.#first ?? now) - this.#start,
      totalMs: now - this.#start,
    };
  }
}

/** Drains a generation into a completion. */
export async function complete(generation: Generation): Promise<Completion> {
  const text = await generation.text();
  const { usage, timings, finishReason } = generation;
  if (!usage || !timings || !finishReason) throw new ChaiError('CLOSED', 'the session was closed before the generation had ended');
  return { text, usage, timings, finishReason };
}

// Every option of the public API: types, meanings, defaults, checks. In: what a caller gave. Out: complete options, or OPTION_INVALID.
import * as v from 'valibot';
import { ChaiError, reading } from './errors';
import type { Attention } from './head_plan';
import type { ChatMessage } from './tokenizer';

/** How far a load has come. */
export interface LoadProgress {
  /** 'tokenizer' while tokenizer.json is parsed (nothing is loaded yet), then 'weights'. */
  phase: 'tokenizer' | 'weights';
  /** Bytes of weights read, and in all. */
  loaded: number;
  total: number;
  /** loaded / total, 0 to 1. */
  fraction: number;
}

/** Options of `loadModel`; all may be left out. */
export interface LoadOptions {
  /** Where to compute. 'auto': the first usable CUDA device, else the CPU. */
  device?: 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;
  /** How sessions attend unless they say otherwise; 'auto': CHAI when the model has a head-plan.json, else dense. */
  attention?: Attention;
  /** Tokens a session may hold; default: as many as the model was made for, less where memory does not allow it. */
  contextLength?: number;
  /** Element type of the K/V cache. 'auto': float32 for float32 weights on the CPU, else float16. */
  cacheType?: 'auto' | 'float32' | 'float16' | 'bfloat16';
  /** Tokens that all sessions together may hold (at full head count); default: maxBatch contexts (at most 16), less where memory does not allow it. */
  cacheTokens?: number;
  /** Most sequences computed in one step; default 16. More wait their turn. */
  maxBatch?: number;
  /** Compute threads; default 0: the physical cores. */
  threads?: number;
  /** Map the weight files instead of reading them. A file truncated while mapped kills the process: only for files nobody changes. */
  mmap?: boolean;
  /** Aborts the load. */
  signal?: AbortSignal;
  /** Called now and then on the event loop. What it throws ends the load. */
  onProgress?: (progress: LoadProgress) => void;
}

/** Options of `generate` and `complete`; all may be left out. */
export interface GenerateOptions {
  /** Tokens to generate at most; default: until the context is full. */
  maxTokens?: number;
  /** 0 (default): always the likeliest token. */
  temperature?: number;
  /** Only the k likeliest tokens; 0 (default): all. */
  topK?: number;
  /** The likeliest tokens that together have this probability; 1 (default): all. */
  topP?: number;
  /** Only tokens at least this probable relative to the likeliest; 0 (default): all. */
  minP?: number;
  /** Divides positive and multiplies negative logits of tokens already in the session; 1 (default): off. */
  repetitionPenalty?: number;
  /** The same seed gives the same text, whatever else runs; default: random. */
  seed?: number;
  /** Text that ends the generation; it is not part of the output. */
  stop?: string | readonly string[];
  /** Go on past end-of-sequence tokens. */
  ignoreEos?: boolean;
  /** Ends the generation within one step; the iterator then throws ABORTED. */
  signal?: AbortSignal;
  /** Give each token its log-probability (natural, before temperature and penalties). */
  logprobs?: boolean;
}

/**
 * Text (at the beginning of a session, special tokens are added as the tokenizer says), token ids (nothing is added), or a conversation
 * (through the chat template, which writes its own special tokens).
 */
export type Prompt = string | readonly number[] | Int32Array | Uint32Array | { messages: readonly ChatMessage[] };

/** A whole number. */
export const count = (least: number, most: number) => {
  const message = `expected a whole number from ${least} to ${most}`;
  return v.pipe(v.number(message), v.integer(message), v.minValue(least, message), v.maxValue(most, message));
};
const between = (least: number, most: number) => {
  const message = `expected a number from ${least} to ${most}`;
  return v.pipe(v.number(message), v.minValue(least, message), v.maxValue(most, message));
};
export const flag = v.boolean('expected true or false');

/** By its shape: signals of other realms and of polyfills are no instances of this realm's class. */
export const signal = v.optional(
  v.custom<AbortSignal>((value) => {
    const given = (typeof value === 'object' && value !== null ? value : {}) as Partial<AbortSignal>;
    const { aborted, addEventListener, removeEventListener } = given;
    return typeof aborted === 'boolean' && typeof addEventListener === 'function' && typeof removeEventListener === 'function';
  }, 'expected an AbortSignal'),
);
const attention = v.optional(
  v.union(
    [v.string(), v.custom<object>((value) => typeof value === 'object' && value !== null)],
    'expected "auto", "dense", "chai", "chai-static", the path of a head plan or a head plan',
  ),
);

const loadSchema = v.strictObject({
  device: v.optional(
    v.custom<string>(
      (value) => typeof value === 'string' && /^(auto|cpu|cuda|cuda:\d{1,3})$/.test(value),
      'expected "auto", "cpu", "cuda" or "cuda:N"',
    ),
    'auto',
  ),
  attention,
  contextLength: v.optional(count(1, 1 << 28)),
  cacheType: v.optional(v.picklist(['auto', 'float32', 'float16', 'bfloat16']), 'auto'),
  cacheTokens: v.optional(count(1, 2 ** 40)),
  maxBatch: v.optional(count(1, 4096), 16),
  threads: v.optional(count(0, 1024), 0),
  mmap: v.optional(flag, false),
  signal,
  onProgress: v.optional(v.function('expected a function')),
});

const stops = 'expected a text of 1 to 1000 characters, or a list of at most 64 such texts';
const stopText = v.pipe(v.string(stops), v.minLength(1, stops), v.maxLength(1000, stops));
const generateSchema = v.strictObject({
  maxTokens: v.optional(count(0, 1 << 28)),
  temperature: v.optional(between(0, 100), 0),
  topK: v.optional(count(0, 1 << 28), 0),
  topP: v.optional(between(0, 1), 1),
  minP: v.optional(between(0, 1), 0),
  repetitionPenalty: v.optional(between(1e-6, 100), 1),
  seed: v.optional(count(0, Number.MAX_SAFE_INTEGER)),
  stop: v.optional(v.union([stopText, v.pipe(v.array(stopText), v.maxLength(64, stops))], stops)),
  ignoreEos: v.optional(flag, false),
  signal,
  logprobs: v.optional(flag, false),
});

export type CheckedLoadOptions = v.InferOutput<typeof loadSchema> & { attention: Attention; onProgress?: LoadOptions['onProgress'] };
export type CheckedGenerateOptions = Omit<v.InferOutput<typeof generateSchema>, 'stop' | 'seed'> & { stop: string[]; seed: number };

export function checkLoadOptions(options: unknown): CheckedLoadOptions {
  const result = checked(loadSchema, options, 'loadModel');
  return { ...result, attention: result.attention ?? 'auto' } as CheckedLoadOptions;
}

export function checkGenerateOptions(options: unknown): CheckedGenerateOptions {
  const result = checked(generateSchema, options, 'generate');
  const stop = typeof result.stop === 'string' ? [result.stop] : (result.stop ?? []);
  return { ...result, stop, seed: result.seed ?? Math.floor(Math.random() * 2 ** 48) };
}

const sessionSchema = v.strictObject({ attention });
export function checkSessionOptions(options: unknown): { attention?: Attention } {
  return checked(sessionSchema, options, 'createSession') as { attention?: Attention };
}

const evaluateSchema = v.strictObject({ logits: v.optional(v.picklist(['all', 'last', 'none']), 'last'), signal });
export function checkEvaluateOptions(options: unknown) {
  return checked(evaluateSchema, options, 'evaluate');
}

const scoreSchema = v.strictObject({ signal });
export function checkScoreOptions(options: unknown) {
  return checked(scoreSchema, options, 'score');
}

const encodeSchema = v.strictObject({ addSpecialTokens: v.optional(flag, true) });
export function checkEncodeOptions(options: unknown) {
  return checked(encodeSchema, options, 'encode');
}

const decodeSchema = v.strictObject({ skipSpecialTokens: v.optional(flag, true) });
export function checkDecodeOptions(options: unknown) {
  return checked(decodeSchema, options, 'decode');
}

const templateSchema = v.strictObject({
  addGenerationPrompt: v.optional(flag, true),
  variables: v.optional(v.record(v.string(), v.unknown(), 'expected an object')),
});
export function checkTemplateOptions(options: unknown) {
  return checked(templateSchema, options, 'applyChatTemplate');
}

/** Throws OPTION_INVALID when the first argument of an offline function is no model. */
export function checkModel(model: unknown, where: string): void {
  if (typeof reading(where, () => (model as { createSession?: unknown } | null | undefined)?.createSession) !== 'function')
    throw new ChaiError('OPTION_INVALID', `${where}: the first argument must be a loaded model, not ${shown(model)}`);
}

type Options = v.StrictObjectSchema<v.ObjectEntries, undefined>;

/** Options that were left out (undefined or null) are the defaults. Throws OPTION_INVALID with what was given and what is allowed. */
export function checked<Schema extends Options>(schema: Schema, options: unknown, where: string): v.InferOutput<Schema> {
  const result = reading(where, () => v.safeParse(schema, options ?? {}));
  if (result.success) return result.output;
  const [issue] = result.issues;
  const field = v.getDotPath(issue);
  if (field === null) throw new ChaiError('OPTION_INVALID', `${where}: options must be an object, but ${shown(issue.input)} was given`);
  if (issue.type === 'strict_object') {
    if (issue.expected !== 'never') throw new ChaiError('OPTION_INVALID', `${where}: option ${field} is missing`);
    const names = issue.path?.length === 1 ? `; the options are ${Object.keys(schema.entries).join(', ')}` : '';
    throw new ChaiError('OPTION_INVALID', `${where}: there is no option ${field}${names}`);
  }
  const expected = issue.message.startsWith('expected') ? issue.message : `expected ${issue.expected}`;
  throw new ChaiError('OPTION_INVALID', `${where}: option ${field}: ${expected}, but ${shown(issue.input)} was given`);
}

/** A value as messages show it; runs no code of the caller's. */
export function shown(value: unknown): string {
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'object' && value !== null) return isList(value) ? 'a list' : 'an object';
  const text = typeof value === 'string' ? JSON.stringify(value.slice(0, 60)) : String(value);
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}

function isList(value: object): boolean {
  try {
    return Array.isArray(value);
  } catch {
    return false; // a proxy that was revoked
  }
}

/** Token ids as the engine takes them. Throws OPTION_INVALID. */
export function checkIds(ids: unknown, where: string): Int32Array {
  return reading(where, () => {
    if (ids instanceof Int32Array) return ids;
    if (!Array.isArray(ids) && !(ids instanceof Uint32Array))
      throw new ChaiError('OPTION_INVALID', `${where}: token ids must be an array of whole numbers, an Int32Array or a Uint32Array`);
    return Int32Array.from(ids as ArrayLike<unknown>, (id) => {
      if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > 0x7fffffff)
        throw new ChaiError('OPTION_INVALID', `${where}: ${shown(id)} is not a token id`);
      return id;
    });
  });
}

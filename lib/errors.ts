// The one error class. In: a stable code and a message naming cause and remedy, or a native error. Out: a ChaiError with the caller's stack.

/** What went wrong, stable across releases; test this, not the message. */
export type ErrorCode =
  /** There is no such directory, or a file of it is missing or cannot be read. */
  | 'MODEL_NOT_FOUND'
  /** A file of the model is damaged, or its files do not belong together. */
  | 'MODEL_INVALID'
  /** A sound model that this library does not compute: the message names the field of config.json, or the tensor. */
  | 'UNSUPPORTED_MODEL'
  /** A head plan is missing, malformed or of another model. */
  | 'PLAN_INVALID'
  /** An argument or option is out of range or unknown, or a file that it names cannot be used. */
  | 'OPTION_INVALID'
  /** More tokens than the context length allows. */
  | 'CONTEXT_OVERFLOW'
  /** No room for the weights, for more K/V pages or for a result. Other sessions go on. */
  | 'OUT_OF_MEMORY'
  /** The device asked for is not there or cannot be used: the message says why. */
  | 'DEVICE_UNAVAILABLE'
  /** The device failed while it computed, or something happened that should not. */
  | 'DEVICE_FAULT'
  /** A session does one thing at a time. */
  | 'SESSION_BUSY'
  /** The model or session was closed, before the call or during it. */
  | 'CLOSED'
  /** An AbortSignal fired; its reason is the error's `cause`. */
  | 'ABORTED'
  /** No native addon fits this machine: `npx chai-llm build` makes one. */
  | 'ADDON_UNAVAILABLE';

const codes: ReadonlySet<string> = new Set<ErrorCode>([
  'MODEL_NOT_FOUND',
  'MODEL_INVALID',
  'UNSUPPORTED_MODEL',
  'PLAN_INVALID',
  'OPTION_INVALID',
  'CONTEXT_OVERFLOW',
  'OUT_OF_MEMORY',
  'DEVICE_UNAVAILABLE',
  'DEVICE_FAULT',
  'SESSION_BUSY',
  'CLOSED',
  'ABORTED',
  'ADDON_UNAVAILABLE',
]);

/** Every failure of this library. Tell them apart by `code`; `message` names cause and remedy, `cause` is what lay behind it. */
export class ChaiError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'ChaiError';
    this.code = code;
  }
}

/**
 * The present stack, for errors that arise later on another thread: take it where the caller enters, hand it to `toChaiError`.
 * `below` is the function whose frames, and those it called, are left out.
 */
export function callerStack(below: (...args: never[]) => unknown): string {
  const holder: { stack?: string } = {};
  Error.captureStackTrace(holder, below);
  return (holder.stack ?? '').split('\n').slice(1).join('\n');
}

/** What a thrown value says; whatever was thrown, this does not throw. */
export function messageOf(error: unknown): string {
  try {
    const message = (error as { message?: unknown } | null | undefined)?.message;
    return typeof message === 'string' ? message : String(error);
  } catch {
    return 'an object that tells nothing of itself';
  }
}

/**
 * Reads what a caller gave. That may run code of the caller's (getters, proxies, iterators); what it throws becomes OPTION_INVALID.
 * `where` is the function that was called.
 */
export function reading<Result>(where: string, read: () => Result): Result {
  try {
    return read();
  } catch (error) {
    const { ours } = known(error);
    if (ours) throw ours;
    throw new ChaiError('OPTION_INVALID', `${where}: what was given cannot be read: ${messageOf(error)}`, { cause: error });
  }
}

/** The error when it is one of ours, and its code when it has one: whatever was thrown, this does not throw. */
function known(error: unknown): { ours?: ChaiError; code?: unknown } {
  try {
    return { ours: error instanceof ChaiError ? error : undefined, code: (error as { code?: unknown } | null | undefined)?.code };
  } catch {
    return {};
  }
}

/** Any thrown value as a ChaiError; a native error keeps its code, anything unknown becomes `fallback`. */
export function toChaiError(error: unknown, stack?: string, fallback: ErrorCode = 'DEVICE_FAULT'): ChaiError {
  const { ours, code } = known(error);
  if (ours && stack === undefined) return ours;
  const text = messageOf(error);
  const kept = typeof code === 'string' && codes.has(code) ? (code as ErrorCode) : fallback;
  const result = new ChaiError(kept, text, { cause: ours ? ours.cause : error });
  if (stack !== undefined) result.stack = `ChaiError: ${text}\n${stack}`;
  return result;
}

/** The error of an AbortSignal that fired. */
export function abortError(signal: AbortSignal, what: string): ChaiError {
  return new ChaiError('ABORTED', `${what} was aborted`, { cause: signal.reason });
}

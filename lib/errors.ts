// The one error class. In: a stable code and a message naming cause and remedy, or a native error. Out: a ChaiError with the caller's stack.

/** What went wrong, stable across releases; test this, not the message. */
export type ErrorCode =
  | 'MODEL_NOT_FOUND'
  | 'MODEL_INVALID'
  | 'UNSUPPORTED_MODEL'
  | 'PLAN_INVALID'
  | 'OPTION_INVALID'
  | 'CONTEXT_OVERFLOW'
  | 'OUT_OF_MEMORY'
  | 'DEVICE_UNAVAILABLE'
  | 'DEVICE_FAULT'
  | 'SESSION_BUSY'
  | 'CLOSED'
  | 'ABORTED'
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

/** Every failure of this library. */
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

/** Any thrown value as a ChaiError; a native error keeps its code, anything unknown becomes `fallback`. */
export function toChaiError(error: unknown, stack?: string, fallback: ErrorCode = 'DEVICE_FAULT'): ChaiError {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown };
  const text = typeof message === 'string' ? message : String(error);
  const known = typeof code === 'string' && codes.has(code) ? (code as ErrorCode) : fallback;
  if (error instanceof ChaiError && stack === undefined) return error;
  const result = new ChaiError(known, text, { cause: error instanceof ChaiError ? error.cause : error });
  if (stack !== undefined) result.stack = `ChaiError: ${text}\n${stack}`;
  return result;
}

/** The error of an AbortSignal that fired. */
export function abortError(signal: AbortSignal, what: string): ChaiError {
  return new ChaiError('ABORTED', `${what} was aborted`, { cause: signal.reason });
}

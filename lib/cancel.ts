// Ends waiting when a signal fires. In: a promise, an AbortSignal. Out: the promise's outcome, or ABORTED at once.
import { getMaxListeners, setMaxListeners } from 'node:events';
import { abortError } from './errors';

/**
 * Calls `call` when the signal fires, unless what this gives was called before. Any number of calls may share a signal, and above ten
 * listeners Node.js warns as of a leak: ours are not counted. (One listener for all, found through a WeakMap, keeps work that was dropped
 * without a word, and its pages, until a full garbage collection.)
 */
export function onAbort(signal: AbortSignal | undefined, call: () => void): () => void {
  if (!signal) return () => {};
  allow(signal, 1);
  signal.addEventListener('abort', call, { once: true });
  let listening = true;
  return () => {
    if (!listening) return;
    listening = false;
    allow(signal, -1);
    signal.removeEventListener('abort', call);
  };
}

/** So many listeners more before Node.js warns; 0 is no limit. */
function allow(signal: AbortSignal, more: 1 | -1): void {
  if (!(signal instanceof EventTarget)) return; // one of the caller's own making
  const most = mostListeners(signal);
  if (most > 1) setMaxListeners(most + more, signal);
}

function mostListeners(signal: EventTarget): number {
  try {
    return getMaxListeners(signal);
  } catch {
    return 0; // what Node.js 20 throws of is a signal without a limit
  }
}

/** Settles as `work` does, but rejects with ABORTED as soon as the signal fires; what `work` comes to after that is ignored. */
export async function unlessAborted<Result>(work: Promise<Result>, signal: AbortSignal | undefined, what: string): Promise<Result> {
  if (!signal) return work;
  let release = () => {};
  const aborted = new Promise<never>((_, reject) => {
    const stop = () => reject(abortError(signal, what));
    if (signal.aborted) stop();
    else release = onAbort(signal, stop);
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    work.catch(() => {}); // nobody waits for it any more
    release();
  }
}

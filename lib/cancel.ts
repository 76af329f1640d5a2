// Ends waiting when a signal fires. In: a promise, an AbortSignal. Out: the promise's outcome, or ABORTED at once.
import { abortError } from './errors';

/** Settles as `work` does, but rejects with ABORTED as soon as the signal fires; what `work` comes to after that is ignored. */
export async function unlessAborted<Result>(work: Promise<Result>, signal: AbortSignal | undefined, what: string): Promise<Result> {
  if (!signal) return work;
  let stop = () => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(abortError(signal, what));
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
    work.catch(() => {}); // nobody waits for it any more
  }
}

// Long computations on the event loop's thread, in small bites. In: calls between bites. Out: others get their turn; ABORTED when wished.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { abortError } from './errors';

const longest = 3; // milliseconds at a stretch

export class Turn {
  #since = performance.now();

  /** `what` is aborted when the signal has fired. */
  constructor(
    private readonly signal: AbortSignal | undefined,
    private readonly what: string,
  ) {}

  /** Lets others have their turn when this one has lasted long enough. */
  async over(): Promise<void> {
    if (performance.now() - this.#since < longest) return;
    await nextTurn();
    if (this.signal?.aborted) throw abortError(this.signal, this.what);
    this.#since = performance.now();
  }
}

// How far clustered attention leads away from dense, token by token. In: a window of tokens. Out: a comparison for each kind of attention.
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { CacheBytes, Session } from '../session';
import type { Outcome } from './figures';
import { compareRows } from './logits';

/** Windows at work at a time: with several kinds of attention that fills the engine's steps. */
export const windowsAtOnce = 4;
const logitsAtOnce = 1 << 24; // floats of all of them held at a time: 64 MiB

export interface Comparison {
  /** [kinds of attention] */
  outcomes: Outcome[];
  cacheBytes: CacheBytes[];
}

/** `empty`: one session without tokens a kind of attention; the first is dense, the reference of all, itself among them. */
export async function compareWindow(
  ids: Int32Array,
  empty: readonly Session[],
  vocabulary: number,
  signal?: AbortSignal,
): Promise<Comparison> {
  const sessions = empty.map((session) => session.fork());
  const outcomes = sessions.map(() => ({ logLikelihoods: [], same: 0, divergence: 0, positions: 0 }));
  const rows = Math.max(1, Math.floor(logitsAtOnce / (vocabulary * sessions.length * windowsAtOnce)));
  try {
    for (let start = 0; start < ids.length; start += rows) {
      const part = ids.subarray(start, start + rows);
      const logits = await allDone(sessions.map((session) => session.evaluate(part, { logits: 'all', signal })));
      for (let row = 0; row < part.length; ++row) {
        const at = (all: Float32Array | undefined) => (all as Float32Array).subarray(row * vocabulary, (row + 1) * vocabulary);
        for (const [kind, outcome] of outcomes.entries()) {
          const { sameLargest, divergence } = compareRows(at(logits[0]), at(logits[kind]));
          outcome.same += Number(sameLargest);
          outcome.divergence += divergence;
          outcome.positions += 1;
        }
        if (row % 8 === 7) await nextTurn(); // rows of large vocabularies take a while
      }
    }
    return { outcomes, cacheBytes: sessions.map((session) => session.cacheBytes) };
  } finally {
    await Promise.all(sessions.map((session) => session.close()));
  }
}

/** Waits for all before it throws: a session must not be closed under another's feet. */
async function allDone<Result>(work: Promise<Result>[]): Promise<Result[]> {
  return (await Promise.allSettled(work)).map((one) => {
    if (one.status === 'rejected') throw one.reason;
    return one.value;
  });
}

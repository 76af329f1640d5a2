// What all phases of a calibration share, and the way from a sample to its Gram matrices. In: a model, token ids. Out: inner products.
import { abortError } from '../errors';
import { pagesOf, type Room } from '../evaluate/room';
import type { HeadPlan } from '../head_plan';
import type { Model } from '../model';
import type { Session } from '../session';
import type { Turn } from '../turn';
import type { CheckedOptions } from './options';
import type { State } from './state';
import type { CalibrationProgress } from './types';

export interface Work {
  model: Model;
  room: Room;
  options: CheckedOptions & { signal: AbortSignal };
  state: State;
  turn: Turn;
  /** Tokens of this phase were computed. */
  report(phase: CalibrationProgress['phase'], tokens: number, detail: string): void;
}

/** Feature rows that samples of `length` tokens give. */
export const sampleRows = (length: number, most: number) => Math.min(length, most);

export class GramReader {
  private constructor(
    private readonly empty: Session,
    private readonly work: Work,
    private readonly tokens: number,
  ) {}

  /** For the first `tokens` tokens of samples: a session that would find its membership with the token after them never does. */
  static async open(work: Work, tokens: number): Promise<GramReader> {
    const { layers, heads } = work.model.config;
    const plan: HeadPlan = {
      format: 'chai-llm/head-plan@1',
      method: 'chai',
      warmupTokens: tokens + 1,
      layers: Array.from({ length: layers }, () => ({ clusters: heads })),
    };
    return new GramReader(await work.model.createSession({ attention: plan }), work, tokens);
  }

  close(): Promise<void> {
    return this.empty.close();
  }

  /** [rows x layers x heads x heads] inner products over the first rows[i] feature rows (rows ascend). */
  read(ids: Int32Array, rows: readonly number[]): Promise<Float64Array> {
    const { signal } = this.work.options;
    return this.work.room.with(pagesOf(this.tokens), async () => {
      if (signal.aborted) throw abortError(signal, 'the calibration');
      const session = this.empty.fork();
      try {
        await session.evaluate(ids.subarray(0, this.tokens), { logits: 'none', signal });
        return await session.headGram(rows);
      } finally {
        await session.close();
      }
    });
  }
}

/** The results of `work` on items[from..], in order, with up to `most` of them under way. */
export async function* inOrder<Item, Result>(
  items: readonly Item[],
  from: number,
  most: number,
  work: (item: Item) => Promise<Result>,
): AsyncGenerator<Result, void, void> {
  const pending: Promise<Result>[] = [];
  let next = from;
  try {
    while (next < items.length || pending.length > 0) {
      while (pending.length < most && next < items.length) {
        const begun = work(items[next++] as Item);
        begun.catch(() => {}); // told when its turn comes
        pending.push(begun);
      }
      yield await (pending.shift() as Promise<Result>);
    }
  } finally {
    await Promise.allSettled(pending);
  }
}

// Log-likelihoods of token sequences under one kind of attention. In: sequences with scored tails. Out: sums, bits equal however computed.
import type { Attention } from '../head_plan';
import type { Model } from '../model';
import type { CacheBytes, Session } from '../session';
import type { Scored } from './encode';
import { logProbability } from './logits';
import { pagesOf, pageTokens, type Room } from './room';

const leastShared = 16; // below this many shared tokens a fork costs more than it saves

/** Of one scored tail. */
export interface Likelihood {
  /** Natural logarithm of the probability of the tail, given what stands before it. */
  logLikelihood: number;
  /** Whether each of its tokens is the likeliest there; only when asked for. */
  greedy?: boolean;
}

export interface ScorerOptions {
  signal?: AbortSignal;
  /** Compute what sequences of a group have in common once. The results are the same to the bit; default true. */
  share?: boolean;
}

/** What was computed so far. */
export interface Effort {
  /** Rows computed: tokens, those computed again included. */
  tokens: number;
  sequences: number;
  /** Sums over the sequences at their ends. */
  cacheBytes: CacheBytes;
}

export class Scorer {
  readonly effort: Effort = { tokens: 0, sequences: 0, cacheBytes: { keys: 0, values: 0, denseKeys: 0, denseValues: 0 } };

  /** `empty`: a session without tokens; forks of it save resolving the plan again. */
  private constructor(
    readonly empty: Session,
    private readonly room: Room,
    private readonly options: ScorerOptions,
  ) {}

  static async open(model: Model, attention: Attention, room: Room, options: ScorerOptions = {}): Promise<Scorer> {
    return new Scorer(await model.createSession({ attention }), room, options);
  }

  close(): Promise<void> {
    return this.empty.close();
  }

  /** Sequences that may have a beginning in common: the continuations of one context. */
  async score(group: readonly Scored[], greedy = false): Promise<Likelihood[]> {
    const shared = this.options.share === false || greedy ? 0 : sharedLength(group);
    const need =
      pagesOf(shared) + group.reduce((sum, { ids }) => sum + pagesOf(ids.length) - Math.floor(Math.max(0, shared - 1) / pageTokens), 0);
    if (group.length > 1 && shared >= leastShared && need <= this.room.capacity)
      return this.room.with(need, () => this.#forked(group, shared, greedy));
    return Promise.all(group.map((one) => this.room.with(pagesOf(one.ids.length), () => this.#alone(one, greedy))));
  }

  async #alone(sequence: Scored, greedy: boolean): Promise<Likelihood> {
    return this.#within(this.empty.fork(), (session) => this.#finish(session, sequence, 0, greedy));
  }

  async #forked(group: readonly Scored[], shared: number, greedy: boolean): Promise<Likelihood[]> {
    return this.#within(this.empty.fork(), async (base) => {
      await this.#pass(base, (group[0] as Scored).ids.subarray(0, shared));
      const forks = group.map((sequence) => ({ sequence, session: base.fork() }));
      const work = forks.map(({ sequence, session }) => this.#within(session, () => this.#finish(session, sequence, shared, greedy)));
      const ended = await Promise.allSettled(work); // all sessions are closed before a failure is told
      return ended.map((one) => {
        if (one.status === 'rejected') throw one.reason;
        return one.value;
      });
    });
  }

  /** Scores a sequence of which the session holds the first `held` tokens, held <= from. */
  async #finish(session: Session, { ids, from }: Scored, held: number, greedy: boolean): Promise<Likelihood> {
    const result = greedy ? await this.#greedy(session, ids, from, held) : await this.#sum(session, ids, from, held);
    const { keys, values, denseKeys, denseValues } = session.cacheBytes;
    const all = this.effort.cacheBytes;
    all.keys += keys;
    all.values += values;
    all.denseKeys += denseKeys;
    all.denseValues += denseValues;
    this.effort.sequences += 1;
    return result;
  }

  async #sum(session: Session, ids: Int32Array, from: number, held: number): Promise<Likelihood> {
    // Tokens before the tail need no logits; a short context is cheaper in one go.
    const context = from - held >= leastShared ? from : held;
    if (context > held) await this.#pass(session, ids.subarray(held, context));
    const scores = await session.score(ids.subarray(context), { signal: this.options.signal });
    this.effort.tokens += ids.length - context + (context > 0 ? 1 : 0);
    return { logLikelihood: scores.slice(from - context).reduce((sum, score) => sum + score, 0) };
  }

  /** From the logits themselves: the token before the tail is computed with it, its row tells the tail's first token. */
  async #greedy(session: Session, ids: Int32Array, from: number, held: number): Promise<Likelihood> {
    const last = from - 1;
    if (last > held) await this.#pass(session, ids.subarray(held, last));
    const tail = ids.subarray(last, ids.length - 1);
    const logits = await session.evaluate(tail, { logits: 'all', signal: this.options.signal });
    this.effort.tokens += tail.length;
    const size = logits.length / tail.length;
    const told = Array.from(tail, (_, i) => logProbability(logits.subarray(i * size, (i + 1) * size), ids[from + i] as number));
    return { logLikelihood: told.reduce((sum, one) => sum + one.logProbability, 0), greedy: told.every((one) => one.isLargest) };
  }

  async #pass(session: Session, ids: Int32Array): Promise<void> {
    await session.evaluate(ids, { logits: 'none', signal: this.options.signal });
    this.effort.tokens += ids.length;
  }

  async #within<Result>(session: Session, work: (session: Session) => Promise<Result>): Promise<Result> {
    try {
      return await work(session);
    } finally {
      await session.close();
    }
  }
}

/** Tokens at the beginning that all have in common and none has scored. */
export function sharedLength(group: readonly Scored[]): number {
  const [first, ...others] = group;
  if (!first) return 0;
  let length = Math.min(...group.map(({ from }) => from));
  for (const { ids } of others) {
    let same = 0;
    while (same < length && ids[same] === first.ids[same]) ++same;
    length = same;
  }
  return length;
}

// Loss of head plans on held-out text. In: windows, kinds of attention. Out: nats, window by window; each is computed once.
import { createHash } from 'node:crypto';
import { abortError } from '../errors';
import type { Scored } from '../evaluate/encode';
import { mapConcurrently } from '../evaluate/room';
import { Scorer } from '../evaluate/scorer';
import { difference, estimate, type Samples } from '../evaluate/statistics';
import type { Attention } from '../head_plan';
import type { Work } from './room';
import { packed, unpacked } from './state';
import type { CalibrationProgress } from './types';

export class HeldOut {
  readonly tokens: number;
  readonly #weights: number[];
  #measured = 0;

  constructor(
    readonly name: string,
    private readonly windows: readonly Scored[],
    private readonly work: Work,
    private readonly phase: CalibrationProgress['phase'],
  ) {
    this.tokens = windows.reduce((sum, { ids }) => sum + ids.length, 0);
    this.#weights = windows.map(({ ids, from }) => ids.length - from);
  }

  /** Different kinds of attention measured. */
  get measured(): number {
    return this.#measured;
  }

  /** Negative log-likelihoods, one a window. */
  async measure(attention: Attention, detail: string): Promise<Samples> {
    const key = `loss ${this.name} ${createHash('sha256').update(JSON.stringify(attention)).digest('base64url')}`;
    const known = this.work.state.get<string>(key);
    const sums = (known === undefined ? undefined : unpacked(String(known), this.windows.length)) ?? (await this.#score(attention));
    if (known === undefined) {
      this.work.state.keep(key, packed(sums));
      await this.work.state.set(key, () => packed(sums));
    }
    ++this.#measured;
    this.work.report(this.phase, this.tokens, detail);
    return { sums: Array.from(sums), weights: this.#weights, scale: 'exponential' };
  }

  async #score(attention: Attention): Promise<Float64Array> {
    const { model, room, options } = this.work;
    const scorer = await Scorer.open(model, attention, room, { signal: options.signal });
    try {
      const scored = await mapConcurrently(this.windows, Math.max(8, options.concurrency), async (window) => {
        if (options.signal.aborted) throw abortError(options.signal, 'the calibration');
        const [likelihood] = await scorer.score([window]);
        return -(likelihood?.logLikelihood as number);
      });
      return Float64Array.from(scored);
    } finally {
      await scorer.close();
    }
  }
}

/** Nats a token. */
export function meanLoss({ sums, weights }: Samples): number {
  return estimate({ sums, weights, scale: 'mean' }).value;
}

/** perplexity / dense - 1, with its paired standard error (that of the difference of means, carried through the exponential). */
export function relativeIncrease(of: Samples, dense: Samples): { value: number; standardError: number } {
  const { value, standardError } = difference({ ...of, scale: 'mean' }, { ...dense, scale: 'mean' });
  return { value: Math.expm1(value), standardError: Math.exp(value) * standardError };
}

// Work that runs side by side within a budget. In: jobs and what each needs. Out: their results in order; the first failure ends all.
import type { Model } from '../model';

/** The K/V cache is held in pages of so many tokens. */
export const pageTokens = 64;
export const pagesOf = (tokens: number) => Math.ceil(tokens / pageTokens);

/** Hands out units first come, first served. A wish larger than the whole waits until all is free. */
export class Room {
  #free: number;
  readonly #waiting: { need: number; enter: () => void }[] = [];

  constructor(readonly capacity: number) {
    this.#free = capacity;
  }

  async with<Result>(wish: number, work: () => Promise<Result>): Promise<Result> {
    const need = Math.min(wish, this.capacity);
    if (this.#waiting.length > 0 || need > this.#free) await new Promise<void>((enter) => this.#waiting.push({ need, enter }));
    else this.#free -= need;
    try {
      return await work();
    } finally {
      this.#free += need;
      this.#admit();
    }
  }

  #admit(): void {
    for (let next = this.#waiting[0]; next && next.need <= this.#free; next = this.#waiting[0]) {
      this.#waiting.shift();
      this.#free -= next.need;
      next.enter();
    }
  }
}

/** Runs `work` on all items, at most `most` at a time. After a failure none is begun; it is thrown once those at work have ended. */
export async function mapConcurrently<Item, Result>(
  items: readonly Item[],
  most: number,
  work: (item: Item, index: number) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  let next = 0;
  let failure: { error: unknown } | undefined;
  const worker = async () => {
    while (next < items.length && !failure) {
      const at = next++;
      try {
        results[at] = await work(items[at] as Item, at);
      } catch (error) {
        failure ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(most, items.length) }, worker));
  if (failure) throw failure.error;
  return results;
}

/** Room for as many pages as the model's pool holds, at full head count. */
export async function roomOf(model: Model): Promise<Room> {
  const session = await model.createSession({ attention: 'dense' });
  try {
    await session.evaluate([0], { logits: 'none' });
    const { denseKeys, denseValues } = session.cacheBytes;
    return new Room(Math.max(1, Math.floor(model.memory.cacheReserved / (denseKeys + denseValues))));
  } finally {
    await session.close();
  }
}

// Random numbers that a seed fixes. In: a seed. Out: numbers in [0, 1); samples of a stream in one pass and bounded memory.

/** Uniform numbers in [0, 1) from a 32-bit state (Weyl sequence, then a mixing function: D. Steele et al., SplitMix, OOPSLA 2014). */
export function randomNumbers(seed: number): () => number {
  let state = mix(seed | 0) ^ mix(Math.floor(seed / 2 ** 32) + 0x51ed270b);
  return () => {
    state = (state + 0x9e3779b9) | 0;
    return mix(state) / 2 ** 32;
  };
}

function mix(value: number): number {
  let x = value | 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** Keeps `size` of the items it is shown, each set of them equally likely (Vitter's algorithm R), in the order shown. */
export class Reservoir<Item> {
  readonly #kept: { item: Item; at: number }[] = [];
  #seen = 0;

  constructor(
    private readonly size: number,
    private readonly random: () => number,
  ) {}

  offer(item: Item): void {
    const at = this.#seen++;
    if (this.#kept.length < this.size) this.#kept.push({ item, at });
    else {
      const place = Math.floor(this.random() * this.#seen);
      if (place < this.size) this.#kept[place] = { item, at };
    }
  }

  get seen(): number {
    return this.#seen;
  }

  get items(): Item[] {
    return this.#kept.toSorted((a, b) => a.at - b.at).map(({ item }) => item);
  }
}

/** `count` different indexes below `size`, none of them `without`, in random order; fewer when there are not so many. */
export function drawIndexes(count: number, size: number, without: number, random: () => number): number[] {
  const left = Array.from({ length: size }, (_, i) => i).filter((i) => i !== without);
  const drawn: number[] = [];
  while (drawn.length < count && left.length > 0) {
    const at = Math.floor(random() * left.length);
    drawn.push(left[at] as number);
    left[at] = left[left.length - 1] as number;
    left.pop();
  }
  return drawn;
}

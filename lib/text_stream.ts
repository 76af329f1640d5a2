// Token ids -> text pieces that are right at character edges and at stop strings. In: ids one by one. Out: text safe to show. Pure logic.

/** Decodes a list of ids into text, as a tokenizer library does. */
export type Decode = (ids: number[]) => string;

const replacement = '�';
/** Ids kept as left context of the next piece. */
export const contextIds = 8;
const longestWindow = 32; // ids that may wait for a character to become whole; no real character needs more

/**
 * Incremental decoding: the text of new ids is the difference between decoding a window with and without them, so that whatever the
 * decoder does between neighbours (spaces, byte sequences) is right. A piece that ends inside a character waits for the next ids.
 */
export class TokenDecoder {
  private window: number[];
  private shown: number;

  /** `context`: the last ids before the stream, so that the first new token is decoded as a continuation. */
  constructor(
    private readonly decode: Decode,
    context: number[] = [],
  ) {
    this.window = context.slice(-contextIds);
    this.shown = this.window.length;
  }

  /** The text that this id completes, possibly empty. */
  push(id: number): string {
    this.window.push(id);
    return this.advance(this.window.length - this.shown > longestWindow);
  }

  /** Whatever still waits, as the decoder shows it when nothing follows. */
  flush(): string {
    return this.advance(true);
  }

  private advance(force: boolean): string {
    if (this.shown === this.window.length) return '';
    const before = this.decode(this.window.slice(0, this.shown));
    const after = this.decode(this.window);
    if (!force && after.endsWith(replacement)) return '';
    const text = after.slice(sharedLength(before, after));
    this.window = this.window.slice(-contextIds);
    this.shown = this.window.length;
    return text;
  }
}

/** Length of the common start of two texts; `before` is all of it unless the decoder changed its mind about its end. */
function sharedLength(before: string, after: string): number {
  if (after.startsWith(before)) return before.length;
  let length = 0;
  while (length < before.length && before[length] === after[length]) ++length;
  // Never between the two halves of a character.
  return /[\uD800-\uDBFF]/.test(after[length - 1] ?? '') ? length - 1 : length;
}

/**
 * Cuts a text stream where the first stop string is complete (the longest, when several end there), however the text is cut into pieces;
 * text that may be the start of one is held back until that is known.
 */
export class StopStrings {
  private held = '';
  private readonly stops: string[];
  /** Whether a stop string was met; nothing is shown from there on. */
  stopped = false;

  constructor(stops: readonly string[] = []) {
    this.stops = stops.filter((stop) => stop.length > 0);
  }

  /** The part of `text` (and of what was held) that may be shown now. */
  push(text: string): string {
    if (this.stopped) return '';
    if (this.stops.length === 0) return text;
    const all = this.held + text;
    const cut = this.cut(all);
    if (cut !== undefined) {
      this.stopped = true;
      this.held = '';
      return all.slice(0, cut);
    }
    const keep = Math.max(...this.stops.map((stop) => overlap(all, stop)));
    this.held = all.slice(all.length - keep);
    return all.slice(0, all.length - keep);
  }

  /** Where the text ends, when a stop string is in it. */
  private cut(text: string): number | undefined {
    let best: { start: number; end: number } | undefined;
    for (const stop of this.stops) {
      const start = text.indexOf(stop);
      const end = start + stop.length;
      if (start >= 0 && (!best || end < best.end || (end === best.end && start < best.start))) best = { start, end };
    }
    return best?.start;
  }

  /** The text held back at the end of the stream. */
  flush(): string {
    const text = this.held;
    this.held = '';
    return text;
  }
}

/** Length of the longest end of `text` that is a proper start of `stop`. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; --length)
    if (stop.startsWith(text.slice(text.length - length))) return length;
  return 0;
}

// Windows of text. In: text files, a window and a stride in tokens. Out: sequences whose scored tails together are each token once.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ChaiError } from '../errors';
import { readDocuments } from '../text_files';
import type { Scored } from './encode';
import { Reservoir, randomNumbers } from './random';

export interface Window extends Scored {
  /** UTF-8 bytes of the scored tokens: their share, by count, of the bytes of the text they are from. */
  bytes: number;
  line: number;
}

export interface WindowOptions {
  /** Tokens of a window, and how far the next one starts behind it. */
  window: number;
  stride: number;
  addSpecialTokens: boolean;
  limit: number;
  seed: number;
  signal?: AbortSignal;
}

export interface TextEncoder {
  encode(text: string, addSpecialTokens: boolean): Promise<Int32Array>;
}

/**
 * The first window of a text scores all its tokens but the first; each later one those that the windows before it did not reach. What the
 * tokenizer puts before a text (a beginning-of-sequence token) stands before every window.
 */
export async function readWindows(
  path: string,
  encoder: TextEncoder,
  options: WindowOptions,
): Promise<{ windows: Window[]; available: number }> {
  const sample = new Reservoir<Window>(options.limit, randomNumbers(options.seed));
  const before = options.addSpecialTokens ? await specialBefore(encoder) : new Int32Array(0);
  if (options.window < before.length + 2)
    throw new ChaiError(
      'OPTION_INVALID',
      `a window of ${options.window} tokens is too short: the tokenizer puts ${before.length} before a text`,
    );
  for await (const { text, line } of readDocuments(path, options)) {
    const ids = await encoder.encode(text, false);
    const bytesPerToken = Buffer.byteLength(text) / ids.length;
    // A copy of its ids: they would hold those of the whole text.
    for (const window of windowsOf(ids, before, options))
      sample.offer({ ids: window.ids.slice(), from: window.from, bytes: (window.ids.length - window.from) * bytesPerToken, line });
    await nextTurn();
  }
  return { windows: sample.items, available: sample.seen };
}

/** [before, ids] in windows of at most `window` ids. */
export function* windowsOf(
  ids: Int32Array,
  before: Int32Array,
  { window, stride }: Pick<WindowOptions, 'window' | 'stride'>,
): Generator<Scored> {
  const room = window - before.length;
  let scored = before.length > 0 ? 0 : 1; // the first token of all has nothing to be told from
  const step = Math.min(stride, before.length > 0 ? room : room - 1); // something always stands before a scored token
  for (let start = 0; scored < ids.length; start += step) {
    const end = Math.min(start + room, ids.length);
    if (end <= scored) continue;
    const part = ids.subarray(start, end);
    const whole = before.length > 0 ? Int32Array.from([...before, ...part]) : part;
    yield { ids: whole, from: before.length + scored - start };
    scored = end;
  }
}

/** What the tokenizer adds in front of a text; what it adds at the end is left out. */
export async function specialBefore(encoder: TextEncoder): Promise<Int32Array> {
  const [bare, whole] = [await encoder.encode('a', false), await encoder.encode('a', true)];
  const at = whole.findIndex((_, i) => bare.every((id, j) => whole[i + j] === id));
  return whole.slice(0, Math.max(0, at));
}

// Draws samples and held-out windows from text. In: files, sizes, a seed. Out: token ids; one pass a file, memory bounded by what is drawn.
import { ChaiError } from '../errors';
import type { Scored } from '../evaluate/encode';
import { Reservoir, randomNumbers } from '../evaluate/random';
import { specialBefore, type TextEncoder, windowsOf } from '../evaluate/windows';
import { readDocuments } from '../text_files';
import { Turn } from '../turn';
import type { CheckedOptions } from './options';

export interface Drawn {
  samples: Int32Array[];
  heldOut: Scored[];
  /** Whole windows of `length` tokens that the samples' text has. */
  windows: number;
}

type Wishes = Pick<
  CheckedOptions,
  'text' | 'samples' | 'budget' | 'heldOut' | 'heldOutText' | 'length' | 'seed' | 'addSpecialTokens' | 'signal'
>;

/**
 * Windows of `length` tokens side by side; what is left at the end of a document, and documents that are shorter, are not used. Held-out
 * windows are none of the samples. Where the text has fewer windows than asked for, a share of them in proportion is held out.
 */
export async function drawSamples(wishes: Wishes, encoder: TextEncoder): Promise<Drawn> {
  const { text, heldOutText, samples, heldOut, length, seed } = wishes;
  const random = randomNumbers(seed);
  const own = new Reservoir<Scored>(samples + (heldOutText ? 0 : heldOut), random);
  await offerWindows(text, own, wishes, encoder);
  const least = leastHeldOut(wishes);
  const needed = heldOutText ? 1 : least + 1;
  if (own.seen < needed) throw tooShort(text, own.seen, needed, length);
  if (heldOutText) {
    const other = new Reservoir<Scored>(heldOut, random);
    await offerWindows(heldOutText, other, wishes, encoder);
    if (other.seen < least) throw tooShort(heldOutText, other.seen, least, length);
    return { samples: own.items.map(({ ids }) => ids), heldOut: other.items, windows: own.seen };
  }
  const all = own.items;
  const kept = Math.max(least, Math.min(heldOut, Math.floor((all.length * heldOut) / (samples + heldOut))));
  const apart = new Reservoir<number>(kept, random);
  for (const i of all.keys()) apart.offer(i);
  const chosen = new Set(apart.items);
  return {
    samples: all.filter((_, i) => !chosen.has(i)).map(({ ids }) => ids),
    heldOut: all.filter((_, i) => chosen.has(i)),
    windows: own.seen,
  };
}

/** A standard error takes two windows; with a budget only every second one is measured in the end. */
export function leastHeldOut({ budget }: Pick<CheckedOptions, 'budget'>): number {
  return budget ? 4 : 2;
}

async function offerWindows(files: readonly string[], to: Reservoir<Scored>, wishes: Wishes, encoder: TextEncoder): Promise<void> {
  const { length, addSpecialTokens, signal } = wishes;
  const before = addSpecialTokens ? await specialBefore(encoder) : new Int32Array(0);
  if (length < before.length + 2)
    throw new ChaiError(
      'OPTION_INVALID',
      `calibrate: a length of ${length} tokens is too short: the tokenizer puts ${before.length} before a text`,
    );
  const turn = new Turn(signal, 'the calibration');
  for (const file of files)
    for await (const { text } of readDocuments(file, { signal })) {
      const ids = await encoder.encode(text, false);
      for (const window of windowsOf(ids, before, { window: length, stride: length })) {
        if (window.ids.length === length) to.offer({ ids: window.ids.slice(), from: window.from }); // a copy: the document goes
        await turn.over();
      }
    }
}

function tooShort(files: readonly string[], seen: number, needed: number, length: number): ChaiError {
  return new ChaiError(
    'OPTION_INVALID',
    `calibrate: ${files.join(', ')} ${files.length > 1 ? 'have' : 'has'} ${seen} ${seen === 1 ? 'passage' : 'passages'} of ${length} tokens, ` +
      `and at least ${needed} are needed: give more text, or lower length`,
  );
}

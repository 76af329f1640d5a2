// Questions as token ids, by lm-evaluation-harness's rule. In: contexts, continuations, a tokenizer. Out: sequences with scored tails.
import { ChaiError } from '../errors';

/** One sequence of which the log-probabilities of ids[from..] are wanted; from >= 1. */
export interface Scored {
  ids: Int32Array;
  from: number;
}

export interface Encoder {
  encode(text: string, options?: { addSpecialTokens?: boolean }): number[];
  readonly prefixTokenId: number | undefined;
}

export interface EncodeLimits {
  addSpecialTokens: boolean;
  /** Tokens a sequence may hold. */
  contextLength: number;
}

/**
 * Each continuation after the context. Blanks at the end of the context go to the continuation; the continuation's ids are those that
 * encoding both together adds to those of the context alone. Without a context the sequence begins with the prefix token. Too long a
 * context loses its beginning.
 * undefined: a continuation alone is longer than a sequence may be.
 * @throws {ChaiError} OPTION_INVALID when nothing can stand before continuations without a context.
 */
export function encodeQuestion(
  context: string,
  continuations: readonly string[],
  encoder: Encoder,
  limits: EncodeLimits,
): (Scored & { truncated: boolean })[] | undefined {
  const { addSpecialTokens, contextLength } = limits;
  const kept = context.trimEnd();
  const blanks = context.slice(kept.length);
  const before = kept === '' ? prefix(encoder) : encoder.encode(kept, { addSpecialTokens });
  const tails = continuations.map((continuation) => {
    const tail =
      kept === ''
        ? encoder.encode(blanks + continuation, { addSpecialTokens: false })
        : continued(kept, blanks + continuation, before, encoder, addSpecialTokens);
    if (tail.length === 0) throw new ChaiError('OPTION_INVALID', 'a continuation has no tokens');
    return tail;
  });
  if (tails.some((tail) => tail.length >= contextLength)) return undefined;
  return tails.map((tail) => {
    const ids = Int32Array.from([...before, ...tail].slice(-contextLength));
    return { ids, from: ids.length - tail.length, truncated: before.length + tail.length > contextLength };
  });
}

/** A token that swallows the border leaves nothing after it: then the continuation is encoded alone. */
function continued(kept: string, continuation: string, before: number[], encoder: Encoder, addSpecialTokens: boolean): number[] {
  const tail = encoder.encode(kept + continuation, { addSpecialTokens }).slice(before.length);
  return tail.length > 0 ? tail : encoder.encode(continuation, { addSpecialTokens: false });
}

function prefix({ prefixTokenId }: Encoder): number[] {
  if (prefixTokenId === undefined)
    throw new ChaiError(
      'OPTION_INVALID',
      'these items have no context, and config.json names no bos_token_id or eos_token_id that could stand before them',
    );
  return [prefixTokenId];
}

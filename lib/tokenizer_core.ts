// The tokenizer library with our options, used by the worker and by the synchronous calls alike. In: two JSON objects. Out: ids and text.
import type * as Tokenizers from '@huggingface/tokenizers';
import { ChaiError } from './errors';
import { isObject, type JsonObject } from './json_file';

export interface EncodeOptions {
  /** Add what the tokenizer adds around a text, such as a beginning-of-sequence token. Default true. */
  addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leave special tokens out of the text. Default true. */
  skipSpecialTokens?: boolean;
}

export class TokenizerCore {
  private readonly library: Tokenizers.Tokenizer;

  constructor(text: string, config: JsonObject, path: string) {
    try {
      const json: unknown = JSON.parse(text);
      if (!isObject(json) || !isObject(json.model)) throw new Error('it has no "model"');
      const { Tokenizer } = require('@huggingface/tokenizers') as typeof Tokenizers; // late: importing chai-llm stays quick
      this.library = new Tokenizer(json, config);
    } catch (error) {
      throw new ChaiError('MODEL_INVALID', `${path} is not a usable tokenizer: ${(error as Error).message}`, { cause: error });
    }
  }

  encode(text: string, { addSpecialTokens = true }: EncodeOptions = {}): number[] {
    const { ids } = this.library.encode(text, { add_special_tokens: addSpecialTokens });
    // The library gives undefined or null here, which would become id 0 on its way to the engine.
    if (!ids.every(Number.isInteger))
      throw new ChaiError('MODEL_INVALID', 'the tokenizer has no token for some of this text, and no token for the unknown');
    return ids;
  }

  decode(ids: readonly number[], { skipSpecialTokens = true }: DecodeOptions = {}): string {
    if (ids.length === 0) return '';
    return this.library.decode(ids as number[], { skip_special_tokens: skipSpecialTokens, clean_up_tokenization_spaces: false });
  }

  /** One more than the largest id. */
  get size(): number {
    let largest = -1;
    for (const id of this.library.get_vocab(true).values()) largest = Math.max(largest, id);
    return largest + 1;
  }
}

// The synchronous tokenizer of a model, and chat templates. In: text, ids, messages. Out: ids and text. Built on first use.
import fs from 'node:fs';
import { type ChatMessage, ChatTemplate, type ChatTemplateOptions, checkMessages, templateSource } from './chat_template';
import { ChaiError, reading } from './errors';
import type { ModelFiles } from './model_files';
import { checkDecodeOptions, checkEncodeOptions, checkTemplateOptions } from './options';
import { type DecodeOptions, type EncodeOptions, TokenizerCore } from './tokenizer_core';

export type { ChatMessage, ChatTemplateOptions } from './chat_template';
export type { DecodeOptions, EncodeOptions } from './tokenizer_core';

/** Synchronous and on the calling thread: a large tokenizer takes some tenths of a second at its first use. */
export class Tokenizer {
  private core: TokenizerCore | undefined;
  private readonly source: string | undefined;
  private readonly template: ChatTemplate;

  constructor(private readonly files: ModelFiles) {
    this.source = templateSource(files.chatTemplateFile, files.tokenizerConfig);
    this.template = new ChatTemplate(this.source, files.tokenizerConfig, files.directory);
  }

  /** Text -> token ids. Special tokens, such as one for the beginning, are added as tokenizer.json's post-processor says. */
  encode(text: string, options?: EncodeOptions): number[] {
    if (typeof text !== 'string') throw new ChaiError('OPTION_INVALID', `encode: text must be a string, not ${typeof text}`);
    return this.load().encode(text, checkEncodeOptions(options));
  }

  /** Token ids -> text. Ids that no token has are left out. */
  decode(ids: Iterable<number>, options?: DecodeOptions): string {
    const list = reading('decode', () => (typeof ids === 'object' && ids !== null && Symbol.iterator in ids ? [...ids] : undefined));
    if (!list?.every((id) => Number.isInteger(id) && id >= 0))
      throw new ChaiError('OPTION_INVALID', 'decode: ids must be a list of whole numbers from 0');
    return this.load().decode(list, checkDecodeOptions(options));
  }

  /**
   * What stands before a text that has nothing before it: the beginning-of-sequence token, else the end-of-sequence one, as
   * config.json names them; undefined when it names neither.
   */
  get prefixTokenId(): number | undefined {
    const { config } = this.files;
    const ids = [config.bos_token_id, config.eos_token_id].flat();
    return ids.find((id): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0);
  }

  /** Whether the model comes with a chat template. */
  get hasChatTemplate(): boolean {
    return this.source !== undefined;
  }

  /**
   * A conversation as one prompt text. It holds its special tokens already: encode it with `addSpecialTokens: false`
   * (`generate` does so by itself for `{ messages }` prompts).
   */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions): string {
    checkMessages(messages, 'applyChatTemplate');
    return this.template.render(messages, checkTemplateOptions(options));
  }

  private load(): TokenizerCore {
    if (!this.core) {
      let text: string;
      try {
        text = fs.readFileSync(this.files.tokenizer, 'utf8');
      } catch (error) {
        throw new ChaiError('MODEL_NOT_FOUND', `cannot read ${this.files.tokenizer}: ${(error as Error).message}`, { cause: error });
      }
      this.core = new TokenizerCore(text, this.files.tokenizerConfig, this.files.tokenizer);
    }
    return this.core;
  }
}

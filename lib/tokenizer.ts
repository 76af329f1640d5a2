// The synchronous tokenizer of a model, and chat templates. In: text, ids, messages. Out: ids and text. Built on first use.
import fs from 'node:fs';
import { Template } from '@huggingface/jinja';
import { ChaiError } from './errors';
import type { ModelFiles } from './model_files';
import { type DecodeOptions, type EncodeOptions, TokenizerCore } from './tokenizer_core';

export type { DecodeOptions, EncodeOptions } from './tokenizer_core';

/** One turn of a conversation, as chat templates take it. */
export interface ChatMessage {
  role: string;
  content: string;
  [field: string]: unknown;
}

export interface ChatTemplateOptions {
  /** End with the opening of the assistant's turn. Default true. */
  addGenerationPrompt?: boolean;
  /** Further variables of the template, such as `tools` or `documents`. */
  variables?: Record<string, unknown>;
}

/** Synchronous and on the calling thread: a large tokenizer takes some tenths of a second at its first use. */
export class Tokenizer {
  private core: TokenizerCore | undefined;
  private template: Template | undefined;

  constructor(private readonly files: ModelFiles) {}

  /** Text -> token ids. */
  encode(text: string, options?: EncodeOptions): number[] {
    if (typeof text !== 'string') throw new ChaiError('OPTION_INVALID', `encode: text must be a string, not ${typeof text}`);
    return this.load().encode(text, options);
  }

  /** Token ids -> text. */
  decode(ids: Iterable<number>, options?: DecodeOptions): string {
    const list = typeof ids === 'object' && ids !== null && Symbol.iterator in ids ? [...ids] : undefined;
    if (!list?.every((id) => Number.isInteger(id) && id >= 0))
      throw new ChaiError('OPTION_INVALID', 'decode: ids must be a list of whole numbers from 0');
    return this.load().decode(list, options);
  }

  /** Whether the model comes with a chat template. */
  get hasChatTemplate(): boolean {
    return this.templateSource() !== undefined;
  }

  /**
   * A conversation as one prompt text. It holds its special tokens already: encode it with `addSpecialTokens: false`
   * (`generate` does so by itself for `{ messages }` prompts).
   */
  applyChatTemplate(messages: readonly ChatMessage[], { addGenerationPrompt = true, variables }: ChatTemplateOptions = {}): string {
    if (!Array.isArray(messages) || !messages.every((m) => typeof m?.role === 'string'))
      throw new ChaiError('OPTION_INVALID', 'applyChatTemplate: messages must be a list of { role, content }');
    const source = this.templateSource();
    if (source === undefined)
      throw new ChaiError(
        'OPTION_INVALID',
        `${this.files.directory} has no chat template; build the prompt text yourself and pass it as a string`,
      );
    try {
      this.template ??= new Template(source);
      return this.template.render({ messages, add_generation_prompt: addGenerationPrompt, ...this.specialTokens(), ...variables });
    } catch (error) {
      throw new ChaiError('OPTION_INVALID', `the chat template refused these messages: ${(error as Error).message}`, { cause: error });
    }
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

  /** A template of its own file wins; among several named ones the default is taken. */
  private templateSource(): string | undefined {
    if (this.files.chatTemplateFile !== undefined) return this.files.chatTemplateFile;
    const source = this.files.tokenizerConfig.chat_template;
    if (typeof source === 'string') return source;
    if (!Array.isArray(source)) return undefined;
    const named = source.find((entry) => entry?.name === 'default') ?? source[0];
    return typeof named?.template === 'string' ? named.template : undefined;
  }

  private specialTokens(): Record<string, string> {
    const tokens: Record<string, string> = {};
    for (const name of ['bos_token', 'eos_token', 'unk_token', 'pad_token']) {
      const value = this.files.tokenizerConfig[name] as string | { content?: string } | undefined;
      const text = typeof value === 'string' ? value : value?.content;
      if (typeof text === 'string') tokens[name] = text;
    }
    return tokens;
  }
}

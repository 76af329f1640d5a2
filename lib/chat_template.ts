// A model's chat template. In: the template's source, messages. Out: one prompt text. Used by the tokenizer thread and the synchronous calls.
import type * as Jinja from '@huggingface/jinja';
import { ChaiError, messageOf, reading } from './errors';
import type { JsonObject } from './json_file';

/** One turn of a conversation, as chat templates take it. */
export interface ChatMessage {
  /** 'system', 'user', 'assistant' or another that the model's template knows. */
  role: string;
  content: string;
  /** What else the template reads, such as `tool_calls`. */
  [field: string]: unknown;
}

export interface ChatTemplateOptions {
  /** End with the opening of the assistant's turn. Default true. */
  addGenerationPrompt?: boolean;
  /** Further variables of the template, such as `tools` or `documents`. */
  variables?: Record<string, unknown>;
}

const longestRange = 100_000;

/** Throws OPTION_INVALID. */
export function checkMessages(messages: unknown, where: string): asserts messages is readonly ChatMessage[] {
  const sound = () => Array.isArray(messages) && messages.every((message) => typeof message?.role === 'string');
  if (!reading(where, sound)) throw new ChaiError('OPTION_INVALID', `${where}: messages must be a list of { role, content }`);
}

export class ChatTemplate {
  private template: Jinja.Template | undefined;

  /** `source` is undefined for a model without a template; `config` is its tokenizer_config.json. */
  constructor(
    private readonly source: string | undefined,
    private readonly config: JsonObject,
    private readonly directory: string,
  ) {}

  /** Throws OPTION_INVALID when there is no template, or when it refuses the messages. */
  render(messages: readonly ChatMessage[], { addGenerationPrompt = true, variables }: ChatTemplateOptions = {}): string {
    if (this.source === undefined)
      throw new ChaiError(
        'OPTION_INVALID',
        `${this.directory} has no chat template; build the prompt text yourself and pass it as a string`,
      );
    try {
      this.template ??= parsed(this.source);
      const given = { messages, add_generation_prompt: addGenerationPrompt, ...specialTokens(this.config), ...variables };
      return this.template.render({ ...given, boundedRange });
    } catch (error) {
      throw new ChaiError('OPTION_INVALID', `the chat template refused these messages: ${messageOf(error)}`, { cause: error });
    }
  }
}

/** The library refuses to have its `range` replaced from outside, but a template may replace it. */
function parsed(source: string): Jinja.Template {
  const { Template } = require('@huggingface/jinja') as typeof Jinja; // late: importing chai-llm stays quick
  const template = new Template(source);
  template.parsed.body.unshift(...new Template('{% set range = boundedRange %}').parsed.body);
  return template;
}

/**
 * `range` of the template language. The library's own makes a list of any length, and a list longer than an array of V8 may be ends the
 * process: no template that came with a model may do that.
 */
function boundedRange(from: number, to?: number, step = 1): number[] {
  const [start, stop] = to === undefined ? [0, from] : [from, to];
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (!(length <= longestRange)) throw new Error(`range() of ${length} numbers; at most ${longestRange} are allowed`);
  return Array.from({ length }, (_, i) => start + i * step);
}

/** A template of its own file wins; among several named ones the default is taken. */
export function templateSource(file: string | undefined, config: JsonObject): string | undefined {
  if (file !== undefined) return file;
  const source = config.chat_template;
  if (typeof source === 'string') return source;
  if (!Array.isArray(source)) return undefined;
  const named = source.find((entry) => entry?.name === 'default') ?? source[0];
  return typeof named?.template === 'string' ? named.template : undefined;
}

function specialTokens(config: JsonObject): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const name of ['bos_token', 'eos_token', 'unk_token', 'pad_token']) {
    const value = config[name] as string | { content?: unknown } | null | undefined;
    const text = typeof value === 'string' ? value : value?.content;
    if (typeof text === 'string') tokens[name] = text;
  }
  return tokens;
}

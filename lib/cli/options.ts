// Options that several commands share. In: a commander command. Out: the same with options added; and the API's options from theirs.
import { type Command, Help, InvalidArgumentError, Option } from 'commander';
import type { GenerateOptions, LoadOptions } from '../options';

export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('Not a number.');
  return value;
}

/** A whole number above 0. */
export function count(text: string): number {
  const value = number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError('Not a whole number above 0.');
  return value;
}

/** A list such as `128,512`, ascending, each once. */
export function counts(text: string): number[] {
  return [...new Set(text.split(',').map(count))].sort((a, b) => a - b);
}

export interface LoadFlags {
  device?: LoadOptions['device'];
  attention?: string;
  contextLength?: number;
  cacheType?: LoadOptions['cacheType'];
  threads?: number;
}

export function addLoadOptions(command: Command): Command {
  return addMachineOptions(
    command.addOption(new Option('--attention <how>', 'auto, dense, chai, chai-static, or a path to a head plan').default('auto')),
  );
}

/** Where and how to compute, for commands that choose the kind of attention themselves. */
export function addMachineOptions(command: Command): Command {
  return command
    .addOption(new Option('--device <device>', 'auto, cpu, cuda or cuda:N').default('auto'))
    .addOption(
      new Option('--cache-type <type>', 'element type of the K/V cache')
        .choices(['auto', 'float32', 'float16', 'bfloat16'])
        .default('auto'),
    )
    .option('--context-length <tokens>', "tokens a session may hold (default: the model's)", count)
    .option('--threads <count>', 'compute threads (default: physical cores)', count);
}

export function loadOptions({ device, attention, contextLength, cacheType, threads }: LoadFlags): LoadOptions {
  return { device, attention, contextLength, cacheType, threads };
}

export interface GenerateFlags {
  maxTokens?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  seed?: number;
  stop?: string[];
  ignoreEos?: boolean;
}

export function addGenerateOptions(command: Command): Command {
  return command
    .option('--max-tokens <count>', 'tokens to generate at most (default: until the context is full)', number)
    .option('--temperature <t>', '0: always the likeliest token', number, 0)
    .option('--top-k <k>', 'only the k likeliest tokens', number)
    .option('--top-p <p>', 'the likeliest tokens that together have probability p', number)
    .option('--min-p <p>', 'only tokens at least p times as likely as the likeliest', number)
    .option('--repetition-penalty <factor>', 'above 1: repeat less', number)
    .option('--seed <n>', 'the same seed gives the same text', number)
    .option('--stop <text>', 'text that ends the output (repeatable)', (text: string, all: string[] = []) => [...all, text])
    .option('--ignore-eos', 'go on past end-of-sequence tokens');
}

export function generateOptions(flags: GenerateFlags): GenerateOptions {
  const { maxTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop, ignoreEos } = flags;
  return { maxTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop, ignoreEos };
}

/** The end of a command's help: paragraphs wrapped to the terminal as commander wraps what is above; examples stay as they are. */
export const footer = (text: string) => () => {
  const width = process.stdout.columns ?? 80; // commander's own width where there is no terminal
  const wrapped = (paragraph: string) => new Help().boxWrap(paragraph.replaceAll('\n', ' '), width);
  const paragraphs = text.trim().split('\n\n');
  return `\n${paragraphs.map((paragraph) => (paragraph.startsWith('Examples:') ? paragraph : wrapped(paragraph))).join('\n\n')}`;
};

// `chai-llm generate`: text after a prompt. In: prompt from arguments, a file or standard input. Out: text as it comes, or JSON.
import fs from 'node:fs/promises';
import { text as readAll } from 'node:stream/consumers';
import type { Command } from 'commander';
import { ChaiError } from '../errors';
import type { Generation } from '../generation';
import type { Model } from '../model';
import type { Session } from '../session';
import { statsLine } from './format';
import { interrupted, withModel } from './load';
import { addGenerateOptions, addLoadOptions, footer, type GenerateFlags, generateOptions, type LoadFlags, loadOptions } from './options';
import { write } from './output';

interface Flags extends LoadFlags, GenerateFlags {
  file?: string;
  chat?: boolean;
  stats?: boolean;
  json?: boolean;
}

export function addGenerate(program: Command): Command {
  const command = program
    .command('generate')
    .description('write text after a prompt')
    .argument('<model>', 'model directory')
    .argument('[prompt...]', 'the prompt; without it, --file or standard input')
    .option('--file <path>', 'read the prompt from a file')
    .option('--chat', "treat the prompt as a user's message and apply the model's chat template");
  return addGenerateOptions(addLoadOptions(command))
    .option('--stats', 'end with one line on speed and K/V cache, on standard error (1 kB = 1000 B)')
    .option('--json', 'print one JSON object instead of text: text, usage, timings, finishReason, attention, cacheBytes')
    .addHelpText(
      'after',
      footer(`
The text goes to standard output as it comes, with the prompt before it when that is a terminal. The line break that ends a file or
piped text is not part of the prompt. Ctrl-C ends the generation, keeps what there is, and exits with 130.

Examples:
  chai-llm generate ./model "Once upon a time"
  chai-llm generate ./model --file prompt.txt --max-tokens 200 --temperature 0.8 --seed 7
  echo "Dear Sir," | chai-llm generate ./model --attention dense --stats
  chai-llm generate ./model --chat "What is a head map?" --stop "." --json`),
    )
    .action(run);
}

async function run(directory: string, words: string[], flags: Flags): Promise<void> {
  const prompt = await readPrompt(words, flags.file);
  await withModel(directory, loadOptions(flags), async (model) => {
    const session = await model.createSession();
    const generation = session.generate(flags.chat ? { messages: [{ role: 'user', content: prompt }] } : prompt, generateOptions(flags));
    const interrupt = () => {
      process.exitCode = interrupted;
      generation.stop();
    };
    process.on('SIGINT', interrupt); // to the end: a late one must not cut the clean-up short
    const text = await stream(generation, flags, prompt);
    await report(model, session, generation, text, flags);
  });
}

async function readPrompt(words: string[], file: string | undefined): Promise<string> {
  if (words.length > 0 && file !== undefined)
    throw new ChaiError('OPTION_INVALID', 'give the prompt either as an argument or with --file, not both');
  if (words.length > 0) return words.join(' ');
  const text = file === undefined ? await readPipe() : await readFile(file);
  return text.replace(/\r?\n$/, '');
}

async function readPipe(): Promise<string> {
  if (process.stdin.isTTY) throw new ChaiError('OPTION_INVALID', 'no prompt: give it as an argument, with --file, or through a pipe');
  return readAll(process.stdin);
}

async function readFile(file: string): Promise<string> {
  return fs.readFile(file, 'utf8').catch((error) => {
    throw new ChaiError('OPTION_INVALID', `--file: cannot read ${file}: ${(error as Error).message}`, { cause: error });
  });
}

/** Writes tokens as they come; the prompt first where a person would miss it. */
async function stream(generation: Generation, { json, chat }: Flags, prompt: string): Promise<string> {
  let text = '';
  if (!json && !chat && process.stdout.isTTY) await write(prompt);
  for await (const token of generation) {
    text += token.text;
    if (!json && token.text) await write(token.text);
  }
  if (!json) await write('\n');
  return text;
}

async function report(
  model: Model,
  session: Session,
  { usage, timings, finishReason }: Generation,
  text: string,
  flags: Flags,
): Promise<void> {
  const { cacheBytes } = session;
  if (flags.json) await write(`${JSON.stringify({ text, usage, timings, finishReason, attention: model.attention, cacheBytes })}\n`);
  if (flags.stats && usage && timings)
    process.stderr.write(`${statsLine(usage, timings, cacheBytes, [model.attention, model.deviceDescription])}\n`);
}

// `chai-llm generate`: text after a prompt. In: prompt from arguments, a file or standard input. Out: text as it comes, or JSON.
import fs from 'node:fs/promises';
import { text as readAll } from 'node:stream/consumers';
import type { Command } from 'commander';
import { ChaiError } from '../errors';
import type { Generation } from '../generation';
import { loadModel, type Model } from '../model';
import type { CacheBytes } from '../session';
import { bytes, milliseconds, rate, saving } from './format';
import { addGenerateOptions, addLoadOptions, type GenerateFlags, generateOptions, type LoadFlags, loadOptions } from './options';
import { loadingBar } from './progress';

interface Flags extends LoadFlags, GenerateFlags {
  file?: string;
  chat?: boolean;
  stats?: boolean;
  json?: boolean;
}

export function addGenerate(program: Command): void {
  const command = program
    .command('generate')
    .description('write text after a prompt')
    .argument('<model>', 'model directory')
    .argument('[prompt...]', 'the prompt; without it, standard input or --file')
    .option('--file <path>', 'read the prompt from a file')
    .option('--chat', "treat the prompt as a user's message and apply the model's chat template");
  addGenerateOptions(addLoadOptions(command))
    .option('--stats', 'end with one line on speed and K/V cache')
    .option('--json', 'print one JSON object instead of text')
    .addHelpText(
      'after',
      `
Examples:
  chai-llm generate ./model "Once upon a time"
  chai-llm generate ./model --file prompt.txt --max-tokens 200 --temperature 0.8 --seed 7
  echo "Dear Sir," | chai-llm generate ./model --attention dense --stats
  chai-llm generate ./model --chat "What is a head map?" --json`,
    )
    .action(run);
}

async function run(directory: string, words: string[], flags: Flags): Promise<void> {
  const prompt = await readPrompt(words, flags.file);
  const model = await load(directory, flags);
  const stop = new AbortController();
  const interrupt = () => stop.abort();
  process.once('SIGINT', interrupt);
  try {
    const session = await model.createSession();
    const generation = session.generate(flags.chat ? { messages: [{ role: 'user', content: prompt }] } : prompt, generateOptions(flags));
    stop.signal.addEventListener('abort', () => generation.stop(), { once: true });
    const text = await stream(generation, !flags.json, flags.chat ? '' : prompt);
    report(model, generation, session.cacheBytes, text, flags);
    if (stop.signal.aborted) process.exitCode = 130;
  } finally {
    process.off('SIGINT', interrupt);
    await model.close();
  }
}

async function load(directory: string, flags: Flags): Promise<Model> {
  const bar = loadingBar();
  try {
    return await loadModel(directory, { ...loadOptions(flags), onProgress: bar.report });
  } finally {
    bar.end();
  }
}

async function readPrompt(words: string[], file: string | undefined): Promise<string> {
  if (words.length > 0) return words.join(' ');
  if (file !== undefined)
    return fs.readFile(file, 'utf8').catch((error) => {
      throw new ChaiError('OPTION_INVALID', `--file: cannot read ${file}: ${(error as Error).message}`);
    });
  if (process.stdin.isTTY) throw new ChaiError('OPTION_INVALID', 'no prompt: give it as an argument, with --file, or through a pipe');
  return readAll(process.stdin);
}

/** Writes tokens as they come; the prompt first, so that a terminal shows the whole text. */
async function stream(generation: Generation, show: boolean, prompt: string): Promise<string> {
  let text = '';
  const write = (piece: string) =>
    new Promise<void>((resolve) => (process.stdout.write(piece) ? resolve() : process.stdout.once('drain', resolve)));
  if (show && process.stdout.isTTY) await write(prompt);
  for await (const token of generation) {
    text += token.text;
    if (show && token.text) await write(token.text);
  }
  if (show) await write('\n');
  return text;
}

function report(model: Model, { usage, timings, finishReason }: Generation, cache: CacheBytes, text: string, flags: Flags): void {
  if (flags.json) {
    process.stdout.write(`${JSON.stringify({ text, usage, timings, finishReason, attention: model.attention, cacheBytes: cache })}\n`);
    return;
  }
  if (!flags.stats || !usage || !timings) return;
  const [held, dense] = [cache.keys + cache.values, cache.denseKeys + cache.denseValues];
  const parts = [
    `${usage.completionTokens} tokens`,
    `${rate(timings.decodeTokensPerSecond)} tokens/s`,
    `first token ${milliseconds(timings.timeToFirstTokenMs)}`,
    `K/V cache ${bytes(held)} (dense ${bytes(dense)}, ${saving(held, dense)})`,
    model.attention,
    model.deviceDescription,
  ];
  process.stderr.write(`${parts.join(' · ')}\n`);
}

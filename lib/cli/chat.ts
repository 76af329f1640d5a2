// `chai-llm chat`: a conversation that keeps its cache. In: one user turn a line. Out: answers as they come, or one JSON object each.
import readline from 'node:readline';
import type { Command } from 'commander';
import { ChaiError } from '../errors';
import type { Model } from '../model';
import type { Session } from '../session';
import { Conversation } from './conversation';
import { statsLine } from './format';
import { interrupted, withModel } from './load';
import { addGenerateOptions, addLoadOptions, footer, type GenerateFlags, generateOptions, type LoadFlags, loadOptions } from './options';
import { write } from './output';

interface Flags extends LoadFlags, GenerateFlags {
  system?: string;
  stats?: boolean;
  json?: boolean;
}

/** A model without a template never says that its answer is over. */
const untaughtAnswerTokens = 100;

export function addChat(program: Command): Command {
  const command = program
    .command('chat')
    .description('talk with a model; the K/V cache stays between turns')
    .argument('<model>', 'model directory')
    .option('--system <text>', "what the model is told before the conversation (the template's system role)");
  return addGenerateOptions(addLoadOptions(command))
    .option('--stats', 'one line on speed and K/V cache after each answer, on standard error (1 kB = 1000 B)')
    .option('--json', 'one JSON object a line for each answer: text, usage, timings, finishReason, reusedTokens, cacheBytes')
    .addHelpText(
      'after',
      footer(`
Each line is a turn. Ctrl-C stops an answer; at the empty prompt, Ctrl-C twice or Ctrl-D leaves. When the context is full the oldest
turns are forgotten. A model without a chat template continues your text, ${untaughtAnswerTokens} tokens at a time unless --max-tokens says otherwise.

Examples:
  chai-llm chat ./model --system "You answer in one sentence."
  chai-llm chat ./model --temperature 0.8 --top-p 0.95 --stats
  printf 'Hello\\nAnd now in French\\n' | chai-llm chat ./model --max-tokens 50 --json`),
    )
    .action(run);
}

async function run(directory: string, flags: Flags): Promise<void> {
  await withModel(directory, loadOptions(flags), async (model) => {
    const templated = model.tokenizer.hasChatTemplate;
    if (!templated) process.stderr.write('notice: this model has no chat template; it continues the text you write\n');
    const maxTokens = flags.maxTokens ?? (templated ? undefined : untaughtAnswerTokens);
    await new Chat(model, await model.createSession(), { ...flags, maxTokens }).run();
  });
}

class Chat {
  private readonly conversation: Conversation;
  private readonly terminal = process.stdin.isTTY === true;
  private readonly lines: readline.Interface;
  /** Stops the answer in progress. */
  private stop: (() => void) | undefined;
  private warned = false;

  constructor(
    private readonly model: Model,
    private readonly session: Session,
    private readonly flags: Flags,
  ) {
    const room = Math.min(flags.maxTokens ?? 256, Math.floor(model.config.contextLength / 2));
    this.conversation = new Conversation(model, session, room, flags.system);
    this.lines = readline.createInterface({ input: process.stdin, output: this.terminal ? process.stderr : undefined, prompt: '> ' });
  }

  async run(): Promise<void> {
    const interrupt = () => this.interrupt();
    this.lines.on('SIGINT', interrupt); // typed in a terminal
    process.on('SIGINT', interrupt); // sent from elsewhere
    try {
      this.prompt();
      for await (const line of this.lines) {
        this.warned = false;
        if (line.trim() !== '') await this.turn(line);
        this.prompt();
      }
    } finally {
      process.off('SIGINT', interrupt);
      this.lines.close();
    }
  }

  private prompt(): void {
    if (this.terminal) this.lines.prompt();
  }

  private interrupt(): void {
    if (this.stop) this.stop();
    else if (!this.terminal) this.leave(interrupted);
    else if (this.lines.line !== '') {
      this.lines.write(null, { ctrl: true, name: 'e' });
      this.lines.write(null, { ctrl: true, name: 'u' });
    } else if (this.warned) this.leave(0);
    else {
      this.warned = true;
      process.stderr.write('\n(Ctrl-C again or Ctrl-D leaves)\n');
      this.prompt();
    }
  }

  private leave(exitCode: number): void {
    process.exitCode = exitCode;
    this.lines.close();
  }

  /** In a terminal a turn that fails is taken back and the conversation goes on; a pipe ends with the error. */
  private async turn(line: string): Promise<void> {
    try {
      await this.answer(line);
    } catch (error) {
      if (!this.terminal || !(error instanceof ChaiError)) throw error;
      this.conversation.withdraw();
      process.stderr.write(`error ${error.code}: ${error.message}\n`);
    } finally {
      this.stop = undefined;
    }
  }

  private async answer(line: string): Promise<void> {
    const { json, stats } = this.flags;
    const { ids, reusedTokens, forgotten } = this.conversation.ask(line);
    if (forgotten > 0) process.stderr.write(`notice: the context is full; the oldest ${forgotten} messages are forgotten\n`);
    const generation = this.session.generate(ids, generateOptions(this.flags));
    this.stop = () => generation.stop();
    let text = '';
    for await (const token of generation) {
      text += token.text;
      if (!json && token.text) await write(token.text);
    }
    this.conversation.answered(text);
    const { usage, timings, finishReason } = generation;
    const { cacheBytes } = this.session;
    await write(json ? `${JSON.stringify({ text, usage, timings, finishReason, reusedTokens, cacheBytes })}\n` : '\n');
    if (stats && usage && timings) process.stderr.write(`${statsLine(usage, timings, cacheBytes, [this.model.attention])}\n`);
  }
}

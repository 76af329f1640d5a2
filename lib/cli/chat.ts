// `chai-llm chat`: a conversation that keeps its cache. In: one user turn a line. Out: answers as they come.
import readline from 'node:readline';
import type { Command } from 'commander';
import { loadModel, type Model } from '../model';
import type { Session } from '../session';
import type { ChatMessage } from '../tokenizer';
import { addGenerateOptions, addLoadOptions, type GenerateFlags, generateOptions, type LoadFlags, loadOptions } from './options';
import { loadingBar } from './progress';

interface Flags extends LoadFlags, GenerateFlags {
  system?: string;
}

export function addChat(program: Command): void {
  const command = program
    .command('chat')
    .description('talk with a model; the K/V cache stays between turns')
    .argument('<model>', 'model directory')
    .option('--system <text>', "what the model is told before the conversation (the template's system role)");
  addGenerateOptions(addLoadOptions(command))
    .addHelpText(
      'after',
      `
Ctrl-C stops an answer; at the prompt, Ctrl-C or Ctrl-D leaves. A model without a chat template simply continues the text.

Examples:
  chai-llm chat ./model --system "You answer in one sentence."
  printf 'Hello\\nAnd now in French\\n' | chai-llm chat ./model --max-tokens 50`,
    )
    .action(run);
}

async function run(directory: string, flags: Flags): Promise<void> {
  const bar = loadingBar();
  const model = await loadModel(directory, { ...loadOptions(flags), onProgress: bar.report }).finally(bar.end);
  try {
    if (!model.tokenizer.hasChatTemplate)
      process.stderr.write('This model has no chat template: it continues the text of the conversation.\n');
    await converse(model, await model.createSession(), flags);
  } finally {
    await model.close();
  }
}

async function converse(model: Model, session: Session, flags: Flags): Promise<void> {
  const messages: ChatMessage[] = flags.system ? [{ role: 'system', content: flags.system }] : [];
  const terminal = process.stdin.isTTY === true;
  const lines = readline.createInterface({ input: process.stdin, output: terminal ? process.stderr : undefined, prompt: '> ' });
  let stop: (() => void) | undefined;
  lines.on('SIGINT', () => (stop ? stop() : lines.close()));
  if (terminal) lines.prompt();
  for await (const line of lines) {
    if (line.trim() !== '') {
      messages.push({ role: 'user', content: line });
      const generation = session.generate(await nextIds(model, session, messages), generateOptions(flags));
      stop = () => generation.stop();
      let answer = '';
      for await (const token of generation) {
        answer += token.text;
        process.stdout.write(token.text);
      }
      stop = undefined;
      process.stdout.write('\n');
      messages.push({ role: 'assistant', content: answer });
    }
    if (terminal) lines.prompt();
  }
}

/** The conversation's ids that the session lacks: it keeps the longest common start, as far as it can be cut there. */
async function nextIds(model: Model, session: Session, messages: ChatMessage[]): Promise<number[]> {
  const { tokenizer } = model;
  const text = tokenizer.hasChatTemplate ? tokenizer.applyChatTemplate(messages) : `${messages.map(({ content }) => content).join('\n')}\n`;
  const wanted = tokenizer.encode(text, { addSpecialTokens: !tokenizer.hasChatTemplate });
  const present = session.tokens;
  let common = 0;
  while (common < present.length && common < wanted.length - 1 && present[common] === wanted[common]) ++common;
  if (common < present.length) common = truncate(session, common);
  return wanted.slice(common);
}

/** Cuts at `length`, or empties the session where membership would have to be found anew. */
function truncate(session: Session, length: number): number {
  try {
    session.truncate(length);
    return length;
  } catch {
    session.truncate(0);
    return 0;
  }
}

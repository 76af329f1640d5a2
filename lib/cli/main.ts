#!/usr/bin/env node
// The command line: one file a command, registered in one table. In: arguments. Out: exit code 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C.
import { Command, CommanderError } from 'commander';
import { ChaiError } from '../errors';
import { version } from '../version';
import { addBench } from './bench';
import { addBuild } from './build';
import { addCalibrate } from './calibrate';
import { addChat } from './chat';
import { addEvaluate } from './evaluate';
import { addGenerate } from './generate';
import { addInfo } from './info';

const commands: ((program: Command) => Command)[] = [addGenerate, addChat, addInfo, addBench, addCalibrate, addEvaluate, addBuild];

const hint = '(add --help for the options)';

function build(): Command {
  const program = new Command('chai-llm')
    .description('Language models in Node.js with Clustered Head Attention')
    .version(version)
    .option('--verbose', 'show where an error arose')
    .addHelpText(
      'after',
      '\nExamples:\n  chai-llm generate ./model "Once upon a time" --stats\n  chai-llm info ./model\n  chai-llm bench --help',
    );
  const all = [program, ...commands.map((add) => add(program))];
  for (const command of all)
    command
      .exitOverride()
      .showHelpAfterError(hint)
      .configureHelp({ showGlobalOptions: true })
      .configureOutput({ outputError: (text, print) => print(text.replace(/^error: /, 'error OPTION_INVALID: ')) });
  return program;
}

/** Errors of the system keep their own code (ENOSPC, EACCES): they say more than any of ours. */
function describe(error: unknown): { code: string; message: string; stack?: string } {
  const { code, message, stack } = (error ?? {}) as { code?: unknown; message?: unknown; stack?: string };
  const name = typeof code === 'string' ? code : 'UNEXPECTED';
  const line = (typeof message === 'string' ? message : String(error)).split('\n')[0] ?? '';
  return { code: name, message: line.startsWith(`${name}: `) ? line.slice(name.length + 2) : line, stack };
}

/** An option under the name that it has here: `generate: option maxTokens: ...` becomes `--max-tokens: ...`. */
function inFlags(message: string): string {
  const [prefix, name] = /^\w+: option (\w+)(?:\.\d+)?(?=:)/.exec(message) ?? [];
  const command = program.commands.find((one) => one.name() === program.args[0]);
  const flag = command?.options.find((option) => option.attributeName() === name)?.long;
  return prefix && flag ? `${flag}${message.slice(prefix.length)}` : message;
}

function fail(error: unknown, verbose: boolean): void {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : 2;
    return;
  }
  const { code, message, stack } = describe(error);
  const usage = error instanceof ChaiError && code === 'OPTION_INVALID';
  process.stderr.write(
    `error ${code}: ${usage ? inFlags(message) : message}\n${usage ? `${hint}\n` : ''}${verbose && stack ? `${stack}\n` : ''}`,
  );
  process.exitCode = usage ? 2 : 1;
}

// A reader that went away (such as `| head`) ends the program quietly; a full disk does not.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') fail(error, false);
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});
process.stderr.on('error', () => {});

const program = build();
program.parseAsync().catch((error) => fail(error, program.opts().verbose === true));

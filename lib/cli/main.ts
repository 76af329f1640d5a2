#!/usr/bin/env node
// The command line: one room a command, registered here. In: arguments. Out: exit code 0 done, 1 failed, 2 wrong usage.
import { Command, CommanderError } from 'commander';
import { ChaiError, toChaiError } from '../errors';
import { version } from '../version';
import { addBench } from './bench';
import { addChat } from './chat';
import { addGenerate } from './generate';
import { addInfo } from './info';

function build(): Command {
  const program = new Command('chai-llm')
    .description('Language models in Node.js with Clustered Head Attention')
    .version(version)
    .option('--verbose', 'show where an error arose')
    .showHelpAfterError('(add --help for the options)')
    .exitOverride();
  for (const add of [addGenerate, addChat, addInfo, addBench]) add(program);
  for (const command of program.commands) command.exitOverride().showHelpAfterError('(add --help for the options)');
  return program;
}

function fail(error: unknown, verbose: boolean): void {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : 2;
    return;
  }
  const known = toChaiError(error);
  process.stderr.write(`error ${known.code}: ${known.message}\n${verbose ? `${known.stack}\n` : ''}`);
  process.exitCode = known instanceof ChaiError && known.code === 'OPTION_INVALID' ? 2 : 1;
}

// A reader that went away (such as `| head`) ends the program quietly.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));

const program = build();
program.parseAsync().catch((error) => fail(error, program.opts().verbose === true));

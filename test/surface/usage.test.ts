// What every command has in common: help, exit codes, errors in one line. In: the built command line. Out: streams and codes.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { bytes, counted, rate, saving, seenRate, table } from '../../lib/cli/format';
import { remainingLine } from '../../lib/cli/progress';
import { cli, root, starter } from './programs';

for (const command of ['generate', 'chat', 'info', 'bench', 'calibrate', 'evaluate', 'build'])
  test(`${command} --help teaches, with examples at its end`, async () => {
    const { code, out, err } = await cli([command, '--help']);
    assert.is(code, 0);
    assert.is(err, '');
    const [, examples] = out.split('\nExamples:\n');
    assert.ok(examples, 'examples come last');
    const lines = examples.trim().split('\n');
    assert.ok(lines.length >= 3);
    for (const line of lines) assert.match(`${line} `, `chai-llm ${command} `);
    assert.match(out, '--json');
    const prose = (out.split('\n\nExamples:\n')[0] ?? '').split('\n');
    assert.ok(
      prose.every((line) => line.length <= 80),
      'no line is longer than a narrow terminal is wide',
    );
  });

test('the program lists its commands and knows its version', async () => {
  const { code, out } = await cli(['--help']);
  assert.is(code, 0);
  for (const command of ['generate', 'chat', 'info', 'bench', 'calibrate', 'evaluate', 'build'])
    assert.match(out, new RegExp(`^  ${command} `, 'm'));
  const { version } = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
  assert.is((await cli(['--version'])).out, `${version}\n`);
});

for (const [name, args] of [
  ['no command', []],
  ['an unknown command', ['sing']],
  ['an unknown option', ['generate', starter, 'x', '--loud']],
  ['a missing model', ['generate']],
  ['no number', ['generate', starter, 'x', '--max-tokens', 'many']],
  ['a number that is not finite', ['generate', starter, 'x', '--temperature', 'Infinity']],
  ['a number out of range', ['generate', starter, 'x', '--temperature', '-1']],
  ['half a token', ['generate', starter, 'x', '--max-tokens', '1.5']],
  ['an unknown cache type', ['generate', starter, 'x', '--cache-type', 'int1']],
  ['a list where one number belongs', ['bench', starter, '--rounds', '1,2']],
  ['a bad list', ['bench', starter, '--prompt', '8,0']],
  ['a prompt beyond the context', ['bench', starter, '--prompt', '250', '--generate', '64']],
  ['info of nothing', ['info']],
  ['memory beyond the context', ['info', starter, '--context-length', '257']],
  ['two prompts', ['generate', starter, 'x', '--file', 'y']],
  ['an unreadable prompt', ['generate', starter, '--file', path.join(root, 'no-such-file')]],
  ['an empty prompt', ['generate', starter]],
  ['chat without a template', ['generate', starter, 'x', '--chat']],
  ['a folder of tasks that is not there', ['evaluate', starter, '--task', 'piqa', '--data', '/no/such/folder']],
  ['a result that cannot be written', ['bench', starter, '--out', '/no/such/folder/x.json']],
  ['a result in the place of a folder', ['evaluate', starter, '--task', 'choice=x', '--out', root]],
  ['a report in the place of a device', ['calibrate', starter, '--text', 'x', '--report', os.devNull]],
] as [string, string[]][])
  test(`wrong usage exits with 2 and hints at --help: ${name}`, async () => {
    const { code, out, err } = await cli(args);
    assert.is(code, 2);
    assert.is(out, '');
    if (args.length === 0) assert.match(err, 'Usage: chai-llm');
    else assert.match(err, /^error OPTION_INVALID: [^\n]+\n\(add --help for the options\)\n$/);
  });

for (const [name, args, expected] of [
  ['generate', ['generate', '/no/such/model', 'x'], 'MODEL_NOT_FOUND'],
  ['chat', ['chat', '/no/such/model'], 'MODEL_NOT_FOUND'],
  ['info', ['info', '/no/such/model'], 'MODEL_NOT_FOUND'],
  ['bench', ['bench', '/no/such/model'], 'MODEL_NOT_FOUND'],
  ['a missing head plan', ['generate', starter, 'x', '--attention', '/no/such/plan.json'], 'PLAN_INVALID'],
  ['a missing device', ['generate', starter, 'x', '--device', 'cuda:99'], 'DEVICE_UNAVAILABLE'],
  ['a prompt beyond the context', ['generate', starter, 'word '.repeat(300)], 'CONTEXT_OVERFLOW'],
] as [string, string[], string][])
  test(`a failure exits with 1 and one line: ${name}`, async () => {
    const { code, out, err } = await cli(args);
    assert.is(code, 1);
    assert.is(out, '');
    assert.match(err, new RegExp(`^error ${expected}: [^\\n]+\\n$`));
  });

test('a value out of range is named as the option that was typed', async () => {
  for (const [args, words] of [
    [['generate', starter, 'x', '--max-tokens', '-3'], '--max-tokens: expected a whole number'],
    [['generate', starter, 'x', '--stop', ''], '--stop: expected a text'],
    [['chat', starter, '--device', 'tpu'], '--device: expected "auto"'],
    [['evaluate', starter, '--task', 'choice=x', '--shots', '-1'], '--shots: expected a whole number'],
  ] as [string[], string][])
    assert.ok((await cli(args)).err.startsWith(`error OPTION_INVALID: ${words}`), words);
});

test('--verbose adds where the error arose', async () => {
  const { code, err } = await cli(['generate', '/no/such/model', 'x', '--verbose']);
  assert.is(code, 1);
  assert.match(err, /^error MODEL_NOT_FOUND: .*\n.*\n\s+at /);
});

test('numbers for people', () => {
  assert.equal([0, 999, 1000, 99_940, 99_960, 999_400, 999_600, 1.5e9].map(bytes), [
    '0 B',
    '999 B',
    '1.0 kB',
    '99.9 kB',
    '100 kB',
    '999 kB',
    '1.0 MB',
    '1.5 GB',
  ]);
  assert.equal([3.14, 99.96, 812.4, Number.NaN].map(rate), ['3.1', '100', '812', '-']);
  assert.equal([saving(96, 128), saving(128, 128), saving(150, 100), saving(0, 0)], ['-25.0 %', '0.0 %', '50.0 %', '0.0 %']);
  assert.is(
    table([
      ['a', 'bb'],
      ['ccc', 'd'],
    ]),
    'a    bb\nccc   d',
  );
  assert.is(table([['', 'b'], ['a title widens no column'], ['a', 'c']]), '   b\na title widens no column\na  c');
  assert.equal([counted(1, 'token'), counted(0, 'token')], ['1 token', '0 tokens']);
});

test('a bar tells no total and no time before they are known', () => {
  const line = (done: number, total: number, seconds: number, before = 0) =>
    remainingLine('measuring', { done, total, seconds, before, what: 'a file' });
  assert.is(line(500, 0, 9), 'measuring · a file');
  assert.is(line(0, 100, 9), `measuring [${'-'.repeat(40)}] 0 % · a file`);
  assert.is(line(25, 100, 10), `measuring [${'='.repeat(10)}${'-'.repeat(30)}] 25 % · 30 s left · a file`);
  assert.match(line(1, 100, 100), ' 1 % · 2 h 45 min left ·');
  assert.match(line(60, 100, 10, 40), ' 60 % · 20 s left ·');
  assert.match(line(100, 100, 100), `[${'='.repeat(40)}] 100 % · 0 s left ·`);
});

test('the rate seen is of the tokens after the first one', () => {
  const usage = { promptTokens: 1, completionTokens: 11, totalTokens: 12 };
  const timings = {
    promptMs: 1,
    promptTokensPerSecond: 1,
    decodeMs: 1,
    decodeTokensPerSecond: 1,
    timeToFirstTokenMs: 500,
    totalMs: 2500,
  };
  assert.is(seenRate(usage, timings), 5);
  assert.is(seenRate({ ...usage, completionTokens: 1 }, timings), undefined);
});

test.run();

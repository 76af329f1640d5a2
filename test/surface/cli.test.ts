// The command line as a user meets it: text, JSON, pipes, exit codes, interruptions.
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { modelPath } from '../end_to_end/fixtures';
import { cli, starter } from './run';

test('help teaches every command, with examples', async () => {
  const all = await cli(['--help']);
  assert.is(all.code, 0);
  for (const command of ['generate', 'chat', 'info', 'bench']) {
    assert.match(all.stdout, command);
    const help = await cli([command, '--help']);
    assert.is(help.code, 0);
    assert.match(help.stdout, 'Examples:');
  }
  assert.match((await cli(['--version'])).stdout, /^\d+\.\d+\.\d+\n$/);
});

test('wrong usage is exit code 2, failure 1, each with one line that says why', async () => {
  for (const args of [
    ['generate'],
    ['generate', starter, 'x', '--max-tokens', 'many'],
    ['nonsense'],
    ['generate', starter, 'x', '--nonsense'],
    ['generate', starter, 'x', '--top-p', '7'],
  ]) {
    const { code, stderr, stdout } = await cli(args);
    assert.is(code, 2, args.join(' '));
    assert.ok(stderr.length > 0 && stdout === '');
  }
  const { code, stderr } = await cli(['generate', '/nowhere', 'x']);
  assert.is(code, 1);
  assert.match(stderr, /^error MODEL_NOT_FOUND: .*\n$/);
});

test('generate takes its prompt from arguments, a file or a pipe and gives the same text', async () => {
  const file = path.join(await fs.mkdtemp(path.join(os.tmpdir(), 'chai-llm-')), 'prompt.txt');
  await fs.writeFile(file, 'Once upon a time');
  const options = ['--max-tokens', '20'];
  const words = await cli(['generate', starter, 'Once', 'upon', 'a', 'time', ...options]);
  assert.is(words.code, 0);
  assert.ok(words.stdout.length > 20);
  assert.is(words.stderr, '');
  assert.is((await cli(['generate', starter, '--file', file, ...options])).stdout, words.stdout);
  assert.is((await cli(['generate', starter, ...options], { input: 'Once upon a time' })).stdout, words.stdout);
});

test('--stats ends with one line on speed and cache, --json is one object', async () => {
  const { stderr } = await cli(['generate', starter, 'Once', '--max-tokens', '10', '--stats']);
  assert.match(stderr, /^10 tokens · \S+ tokens\/s · first token .* · K\/V cache .* \(dense .*, -7\.8 %\) · chai · cpu .*\n$/);
  const { stdout } = await cli(['generate', starter, 'Once', '--max-tokens', '10', '--json']);
  const result = JSON.parse(stdout);
  assert.is(result.usage.completionTokens, 10);
  assert.is(result.finishReason, 'length');
  assert.ok(result.text.length > 0 && result.cacheBytes.keys < result.cacheBytes.denseKeys);
});

test('an interruption ends a generation cleanly', async () => {
  const outcome = await cli(['generate', modelPath('llama-mha'), 'x', '--ignore-eos', '--context-length', '256'], {
    onOutput: (text, kill) => text.length > 0 && kill('SIGINT'),
  });
  assert.ok(outcome.code === 130 || outcome.code === 0, `exit code ${outcome.code}`); // 0: it was over before the signal came
  assert.is(outcome.stderr, '');
});

test('chat answers one line after the other and keeps what was said', async () => {
  const turns = 'Hello there\nAnd then?\n';
  const plain = await cli(['chat', starter, '--max-tokens', '8'], { input: turns });
  assert.is(plain.code, 0);
  assert.match(plain.stderr, 'no chat template');
  const template = await cli(['chat', modelPath('llama3-rope'), '--max-tokens', '4', '--ignore-eos', '--system', 'Be short'], {
    input: turns,
  });
  assert.is(template.code, 0, template.stderr);
  assert.is(template.stderr, '');
  assert.ok(template.stdout.length > 0);
});

test('info tells what a model is and will take', async () => {
  const { stdout, code } = await cli(['info', starter, '--context-length', '128']);
  assert.is(code, 0);
  for (const words of ['llama', '0.92 M', 'layer 0      3 clusters', 'K/V cache of 128 tokens', 'cpu:']) assert.match(stdout, words);
  const { model, devices } = JSON.parse((await cli(['info', starter, '--json'])).stdout);
  assert.is(model.parameters, 922752);
  assert.is(model.cacheBytesPerToken.float16.dense, 2 * 4 * 8 * 16 * 2);
  assert.is(model.cacheBytesPerToken.float16.clustered, (4 * 8 + 27) * 16 * 2);
  assert.is(devices[0].id, 'cpu');
  assert.match((await cli(['info', '--devices'])).stdout, 'cpu:');
});

test('bench measures dense beside clustered and writes JSON', async () => {
  const file = path.join(await fs.mkdtemp(path.join(os.tmpdir(), 'chai-llm-')), 'bench.json');
  const { code, stdout, stderr } = await cli([
    'bench',
    starter,
    '--prompt',
    '16',
    '--generate',
    '4',
    '--rounds',
    '1',
    '--batch',
    '1,4',
    '--out',
    file,
  ]);
  assert.is(code, 0, stderr);
  assert.match(stdout, 'load average');
  const report = JSON.parse(await fs.readFile(file, 'utf8'));
  assert.equal(
    report.single.map((c: { attention: string }) => c.attention),
    ['dense', 'chai'],
  );
  const [dense, clustered] = report.single;
  assert.is(dense.cacheBytes.keys, dense.cacheBytes.denseKeys);
  assert.ok(clustered.cacheBytes.keys < clustered.cacheBytes.denseKeys);
  assert.ok(clustered.decode.median > 0 && clustered.firstTokenMs.median > 0);
  assert.is(report.batched.length, 4);
});

test.run();

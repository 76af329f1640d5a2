// `chai-llm bench`: that the report is whole and its counts are right; never how fast. In: the built command line. Out: reports.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type BatchCase, interleave, roundsOf, type SingleCase, type Summary, summarize } from '../../lib/cli/measure';
import { cli, root, starter } from './programs';

const sound = ({ median, min, max }: Summary, name: string) => assert.ok(min > 0 && min <= median && median <= max, name);

test('--json and --out give the same whole report', async () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-surface-'));
  const file = path.join(folder, 'report.json');
  const sizes = ['--prompt', '60,16', '--generate', '16', '--batch', '4,1', '--rounds', '3'];
  const { code, out, err } = await cli(['bench', starter, ...sizes, '--json', '--out', file]);
  assert.is(code, 0);
  assert.is(err, '');
  assert.is(fs.readFileSync(file, 'utf8'), out);
  fs.rmSync(folder, { recursive: true });
  const report = JSON.parse(out);
  assert.is(report.node, process.version);
  assert.is(report.loadAverage.before.length, 3);
  assert.ok(report.cpu && report.device && report.chaiLlm && report.platform);

  const single: SingleCase[] = report.single;
  assert.equal(
    single.map(({ attention, promptTokens }) => [attention, promptTokens]),
    [
      ['dense', 16],
      ['chai', 16],
      ['dense', 60],
      ['chai', 60],
    ],
  );
  for (const { attention, promptTokens, cacheBytes, ...figures } of single) {
    for (const name of ['prefill', 'decode', 'seen', 'firstTokenMs'] as const) sound(figures[name], name);
    const page = 64 * 16 * 2; // rows x head size x float16
    const pages = Math.ceil((promptTokens + 16) / 64);
    assert.is(cacheBytes.denseKeys, 4 * 8 * page * pages);
    assert.is(cacheBytes.values, 4 * 8 * page * pages);
    assert.is(cacheBytes.keys, (attention === 'dense' ? 32 : 27) * page * pages);
  }

  const batched: BatchCase[] = report.batched;
  assert.equal(
    batched.map(({ attention, calls }) => [attention, calls]),
    [
      ['dense', 1],
      ['chai', 1],
      ['dense', 4],
      ['chai', 4],
    ],
  );
  for (const { calls, promptTokens, aggregate, stepsPerRound, rowsPerStep, largestBatch } of batched) {
    sound(aggregate, 'aggregate');
    assert.is(promptTokens, 16);
    assert.ok(calls === 1 ? largestBatch === 1 : largestBatch > 1 && largestBatch <= calls);
    // Each call computes its prompt and all but the last token, and may run ahead by up to 4.
    const rows = stepsPerRound * rowsPerStep;
    assert.ok(rows > calls * (16 + 15) - 1e-6 && rows < calls * (16 + 16 + 4) + 1e-6, `${rows} rows for ${calls} calls`);
  }
});

test('text for people: machine, load, both tables', async () => {
  const { code, out } = await cli(['bench', starter, '--generate', '8', '--batch', '2', '--rounds', '1']);
  assert.is(code, 0);
  assert.match(out, /^chai-llm \S+, Node v\S+, /);
  assert.match(out, /load average [\d. ]+ before, [\d. ]+ after/);
  assert.match(out, /^attention +prompt +prefill tok\/s +first token +decode tok\/s +seen tok\/s +K\/V cache +to dense$/m);
  for (const kind of ['dense', 'chai']) assert.match(out, new RegExp(`^${kind} +128 .+ 0\\.0 %$|^${kind} +128 .+ -7\\.8 %$`, 'm'));
  assert.match(out, /^chai +2 +\d+/m);
});

test('a model without a head plan is measured dense, and that is said', async () => {
  const model = path.join(root, 'test', 'fixtures', 'llama-mha');
  const { code, out } = await cli(['bench', model, '--prompt', '8', '--generate', '4', '--batch', '1', '--rounds', '1']);
  assert.is(code, 0);
  assert.match(out, 'no head plan in use: dense attention only');
  assert.not.match(out, /^chai /m);
});

test('medians and extremes', () => {
  assert.equal(summarize([5, 1, 3]), { median: 3, min: 1, max: 5 });
  assert.equal(summarize([4, 1, 3, 2]), { median: 2.5, min: 1, max: 4 });
});

test('kinds take turns, the order reversed each round, and the first round is not counted', async () => {
  const order: string[] = [];
  let reported = 0;
  const plan = { kinds: ['dense', 'chai'], rounds: 2, onRound: () => void ++reported };
  const samples = await interleave(plan, 'a case', async (kind) => order.push(kind));
  assert.equal(order, ['dense', 'chai', 'chai', 'dense', 'dense', 'chai']);
  assert.equal(
    [...samples],
    [
      ['dense', [4, 5]],
      ['chai', [3, 6]],
    ],
  );
  assert.is(reported, roundsOf({ ...plan, prompts: [1], calls: [], generate: 1 }));
});

test.run();

// The published cluster counts as plans, and the script that makes the paper's tables. In: scripts/paper. Out: what the plans save, a table.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { readHeadPlan } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { root, script, starter } from './programs';

const paper = path.join(root, 'scripts', 'paper');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-paper-'));
process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

test('the published plans keep as many key heads as were published', async () => {
  const kept = { 'llama-7b': [32, 632, 1024], 'llama-7b-2024-07': [32, 362, 1024], 'llama-33b': [60, 1468, 3120] };
  assert.equal(fs.readdirSync(path.join(paper, 'plans')).sort(), ['llama-33b.json', 'llama-7b-2024-07.json', 'llama-7b.json']);
  for (const [name, [layers, keys, all]] of Object.entries(kept)) {
    const plan = await readHeadPlan(path.join(paper, 'plans', `${name}.json`));
    assert.is(plan.layers.length, layers, name);
    assert.is(
      plan.layers.reduce((sum, { clusters = 0 }) => sum + clusters, 0),
      keys,
      name,
    );
    assert.is((plan.model?.layers ?? 0) * (plan.model?.heads ?? 0), all, name);
  }
});

test('the script makes a table of dense, CHAI and CHAI-static', async () => {
  const text = path.join(root, 'test', 'fixtures', 'evaluate', 'perplexity.txt');
  const data = path.join(root, 'test', 'fixtures', 'evaluate');
  const args = [starter, '--data', data, '--out', folder, '--threads', '1'];
  const plan = path.join(starter, 'head-plan.json');
  const { code, out, err } = await script(path.join(paper, 'reproduce.mjs'), [...args, '--plan', plan]);
  assert.is(code, 0, err);
  assert.match(out, /^\| {2}\| PIQA.*\| HellaSwag \(norm\).*\| ARC-E.*\| BoolQ.*\|\n/);
  assert.match(out, /\| dense, % \|.*\n\| chai, points \|.*\n\nK\/V cache saved: 7\.8 %/); // 5 of 64 heads' keys
  assert.is(fs.readFileSync(path.join(folder, 'tables.md'), 'utf8'), out);
  const withText = await script(path.join(paper, 'reproduce.mjs'), [...args, '--text', text, '--samples', '4']);
  assert.is(withText.code, 1); // the text is too short for samples of 256 tokens
  assert.match(withText.err, /passages|tokens/);
  const nothing = await script(path.join(paper, 'reproduce.mjs'), args);
  assert.match(nothing.err, /no cluster counts are published for this model: give --text, or --plan/);
});

test.run();

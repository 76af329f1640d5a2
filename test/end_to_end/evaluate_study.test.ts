// The accuracy study: its controls are what they claim to be, and the script runs, goes on where it stopped and reports.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { type HeadPlan, loadModel } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = path.join(__dirname, '..', '..');
const starter = path.join(root, 'models', 'starter');
const fixtures = path.join(root, 'test', 'fixtures', 'evaluate');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-study-'));
process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
const study = (name: string) => import(path.join(root, 'scripts', 'accuracy_study', `${name}.mjs`)); // plain modules without types
const plan = JSON.parse(fs.readFileSync(path.join(starter, 'head-plan.json'), 'utf8')) as HeadPlan;
const ids = Array.from({ length: 40 }, (_, i) => (i * 37) % 900);

async function logitsOf(directory: string, attention: HeadPlan | 'dense') {
  const model = await loadModel(directory, { cacheType: 'float32', attention: 'dense' });
  const session = await model.createSession({ attention });
  const logits = await session.evaluate(ids, { logits: 'all' });
  const { cacheBytes } = session;
  await model.close();
  return { logits, cacheBytes };
}

test('a model without heads computes what one whose heads give nothing computes, from fewer bytes', async () => {
  const { dropHeads, chooseDropped } = await study('drop_heads');
  const copy = path.join(folder, 'dropped');
  const dropped = [
    [0, 1],
    [0, 7],
    [3, 0],
  ];
  const explicit = (await dropHeads(starter, copy, { layers: 4, heads: 8, dropped })) as HeadPlan;
  const [whole, silent, without] = [await logitsOf(starter, 'dense'), await logitsOf(copy, 'dense'), await logitsOf(copy, explicit)];
  assert.equal(without.logits, silent.logits, 'to the bit');
  assert.not.equal(silent.logits, whole.logits);
  const { keys, values, denseKeys, denseValues } = without.cacheBytes;
  assert.equal([keys / denseKeys, values / denseValues], [29 / 32, 29 / 32]);
  // 2 of 8 heads a layer as clusters save 6 keys; 3 dropped heads save as much.
  assert.is(chooseDropped([2, 2, 2, 2], 8, { seed: 1 }).length, 12);
  const importance = [
    [3, 1],
    [2, 0],
  ];
  assert.equal(chooseDropped([1, 1], 2, { importance }), [[1, 1]]);
  assert.is(chooseDropped([2, 2, 2, 1], 8, { seed: 1 }).length, 12, 'never more bytes than the clusters save');
});

test('controls keep the budget: as many clusters, members by chance, values shared as the map says', async () => {
  const { countsOf, evenCounts, randomCounts, randomMembership, sharedValues, variantsOf } = await study('variants');
  const counts = countsOf(plan) as number[];
  const total = (list: number[]) => list.reduce((sum, count) => sum + count, 0);
  for (let seed = 0; seed < 30; ++seed) {
    const drawn = randomCounts(plan, 8, seed) as number[];
    assert.is(total(drawn), total(counts));
    assert.ok(drawn.every((count) => count >= 1 && count <= 8));
    for (const [layer, { clusters, clusterOf, representatives }] of randomMembership(plan, 8, seed).layers.entries()) {
      assert.is(clusters, counts[layer]);
      assert.equal(
        [...new Set(clusterOf)].sort(),
        Array.from({ length: clusters }, (_, i) => i),
      );
      assert.ok(representatives.every((head: number, cluster: number) => clusterOf[head] === cluster));
    }
  }
  assert.equal(evenCounts(plan), [7, 7, 7, 6]);
  const { cacheBytes } = await logitsOf(starter, sharedValues(plan));
  assert.equal([cacheBytes.keys / cacheBytes.denseKeys, cacheBytes.values / cacheBytes.denseValues], [27 / 32, 27 / 32]);
  const sweep = { heads: 8, keyValueHeads: 8, warmups: [3, 5], starts: [0, 8], seeds: [1] };
  const names = variantsOf('b', plan, sweep).map(({ name }: { name: string }) => name.slice(2));
  const expected = ['CHAI', 'CHAI-static', 'heads dropped, least needed', 'heads dropped, random', 'random members 1', 'random counts 1'];
  expected.push('even counts', 'average-linkage-cosine', 'W = 3', 'start 8', 'CHAI-static, lowest head', 'values shared too');
  assert.equal(names, expected);
});

test('the script measures, skips what is done, and reports', () => {
  const work = path.join(folder, 'work');
  const [out, markdown, chart] = ['out.json', 'tables.md', 'chart.svg'].map((name) => path.join(folder, name)) as [string, string, string];
  const text = path.join(fixtures, 'perplexity.txt');
  const args = ['--model', starter, '--plan', path.join(starter, 'head-plan.json'), '--held-out', text, '--eval', fixtures, '--work', work];
  args.push(
    '--window',
    '64',
    '--only',
    'CHAI$|CHAI-static$|dropped, random|values',
    '--only',
    'W = 3 on templated|held-out',
    '--template',
    'Once upon a time: ',
    '--out',
    out,
    '--markdown',
    markdown,
    '--chart',
    chart,
  );
  const run = (...more: string[]) => {
    const { status, stderr } = spawnSync(process.execPath, [path.join(root, 'scripts', 'accuracy_study.mjs'), ...args, ...more], {
      encoding: 'utf8',
    });
    assert.is(status, 0, stderr);
    return stderr;
  };
  assert.match(run(), /5 variants, 9 tasks, 36 cells to do/); // held-out, agreement, six sets of items; two variants behind the template; W = 3 of two sets
  const first = fs.readFileSync(out, 'utf8');
  assert.match(run(), /5 variants, 9 tasks, 0 cells to do/);
  assert.is(fs.readFileSync(out, 'utf8'), first);
  assert.match(run('--limit', '2'), / 20 cells to do/); // other items for all five sets but blimp
  const result = JSON.parse(first);
  assert.equal(Object.keys(result.tasks), [
    'held-out',
    'agreement',
    'templated',
    'blimp',
    'lambada',
    'arc_easy',
    'hellaswag',
    'piqa',
    'boolq',
  ]);
  assert.ok(result.tasks.boolq.noSignal, 'three items tell nothing');
  const saved = Object.fromEntries(
    result.variants.map(({ name, saved: share }: { name: string; saved: number }) => [name.slice(10), share]),
  );
  assert.equal(saved, {
    CHAI: 0.078125,
    'CHAI-static': 0.078125,
    'heads dropped, random': 0.0625,
    'W = 3': 0.078125,
    'values shared too': 0.15625,
  });
  const tables = fs.readFileSync(markdown, 'utf8');
  assert.match(tables, /### head-plan: clusters 3, 8, 8, 8/);
  assert.match(tables, /\| CHAI \| −7\.8 % \| [+−]\d+\.\d\d ± \d+\.\d\d % \|/);
  assert.match(tables, /BoolQ \(no signal\)/);
  assert.is(fs.readFileSync(chart, 'utf8').match(/<circle [^>]*r="3.5"/g)?.length, 4);
});

test('excerpts are whole paragraphs of one book, pieces behind a template whole words', async () => {
  const { excerptsOf, templated } = await study('excerpts');
  const paragraphs = (book: string, count: number) => Array.from({ length: count }, (_, i) => `${book}${i} is said.`).join('\n\n');
  const text = [paragraphs('one', 40), paragraphs('two', 40)].join('\f');
  const found = (excerptsOf(text, 4, 60) as string).split('\f');
  assert.is(found.length, 4);
  for (const excerpt of found) {
    assert.ok(excerpt.length <= 60);
    for (const paragraph of excerpt.split('\n\n')) assert.match(paragraph, /^(one|two)\d+ is said\.$/);
  }
  const pieces = (templated('some words and some more', 'Q: ', 12) as string).trim().split('\n');
  assert.equal(
    pieces.map((piece) => JSON.parse(piece).text),
    ['Q: some words', 'Q: and some', 'Q: more'],
  );
});

test('a relative loss has the paired error of the ratio', async () => {
  const { lossOf } = await study('report');
  // Perplexities of 4 windows under both; the error of the ratio by the log differences themselves.
  const [dense, other] = [
    [3, 3.5, 4, 4.2],
    [3.3, 3.7, 4.4, 4.5],
  ] as const;
  const mean = (list: readonly number[]) => list.reduce((sum, value) => sum + value, 0) / list.length;
  const error = (list: readonly number[]) => Math.sqrt(list.reduce((sum, value) => sum + (value - mean(list)) ** 2, 0) / 3 / 4);
  const differences = other.map((value, i) => value - (dense[i] as number));
  const [p, q] = [Math.exp(mean(other)), Math.exp(mean(dense))];
  const linear = other.map((value, i) => p * value - q * (dense[i] as number)); // delta method, as the figures themselves have it
  const figure = (value: number, standardError: number) => ({ name: 'perplexity', value, standardError });
  const variant = {
    results: { a: { figures: [{ ...figure(p, p * error(other)), difference: { value: p - q, standardError: error(linear) } }] } },
  };
  const loss = lossOf(variant, { a: { dense: [figure(q, q * error(dense))] } }, 'a');
  assert.ok(Math.abs(loss.value - 100 * Math.expm1(mean(differences))) < 1e-9);
  assert.ok(Math.abs(loss.standardError - 100 * (p / q) * error(differences)) < 1e-9, `${loss.standardError}`);
});

test.run();

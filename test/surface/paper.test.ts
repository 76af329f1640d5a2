// The published cluster counts as plans, and the script that makes the paper's tables. In: scripts/paper. Out: what the plans save, tables.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { type Evaluation, type HeadPlan, readHeadPlan } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { root, script, starter } from './programs';

const paper = path.join(root, 'scripts', 'paper');
const evaluateFixtures = path.join(root, 'test', 'fixtures', 'evaluate');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-paper-'));
process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

const json = (...file: string[]) => JSON.parse(fs.readFileSync(path.join(...file), 'utf8'));
const plain = (module: string) => import(path.join(paper, `${module}.mjs`)); // plain modules without types
const reproduce = (args: string[]) => script(path.join(paper, 'reproduce.mjs'), args);

type Result = Evaluation & { counts: string; plan: HeadPlan; published?: { name: string } };
let runs = 0;

/** What a run writes and prints. */
async function tables(model: string, data: string, args: string[]) {
  const out = path.join(folder, `out-${++runs}`);
  const ended = await reproduce([model, '--data', data, '--out', out, '--threads', '1', ...args]);
  assert.is(ended.code, 0, ended.err);
  assert.is(fs.readFileSync(path.join(out, 'tables.md'), 'utf8'), ended.out);
  const rows = ended.out.split('\n').filter((line) => line.startsWith('|'));
  const cells = Object.fromEntries(
    rows.map((line) => line.split('|').slice(1, -1)).map(([name = '', ...rest]) => [name.trim(), rest.map((cell) => cell.trim())]),
  );
  return { cells, out, text: ended.out, result: json(out, 'result.json') as Result };
}

/** One document that has passages of 256 tokens. */
const text = path.join(folder, 'text.txt');
fs.writeFileSync(text, fs.readFileSync(path.join(evaluateFixtures, 'perplexity.txt'), 'utf8').replace(/\s+/g, ' ').repeat(12));

/** A plan whose every setting is another than the default. */
const otherPlan = path.join(folder, 'plan.json');
const { layers, ...starterPlan } = json(starter, 'head-plan.json') as HeadPlan;
const settings = { clustering: 'average-linkage-cosine', warmupTokens: 7, warmupStart: 2 };
fs.writeFileSync(otherPlan, JSON.stringify({ ...starterPlan, ...settings, layers: layers.map(() => ({ clusters: 3 })) }));

/** A directory with random weights in the shape of the paper's smallest model, its hidden size and vocabulary apart. */
function llama7b(): string {
  const made = path.join(folder, 'llama-7b');
  fs.mkdirSync(made);
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) fs.copyFileSync(path.join(starter, file), path.join(made, file));
  const [hidden, heads, count, vocabulary] = [8, 4096, 32, 1024];
  const shape = { hidden_size: hidden, intermediate_size: hidden, num_hidden_layers: count, head_dim: 128 };
  const config = { ...json(starter, 'config.json'), ...shape, num_attention_heads: 32, num_key_value_heads: 32 };
  fs.writeFileSync(path.join(made, 'config.json'), JSON.stringify(config));
  const tensors: [name: string, shape: number[]][] = [
    ['model.embed_tokens.weight', [vocabulary, hidden]],
    ['model.norm.weight', [hidden]],
  ];
  for (let layer = 0; layer < count; ++layer) {
    const add = (name: string, ...sizes: number[]) => tensors.push([`model.layers.${layer}.${name}.weight`, sizes]);
    for (const name of ['input_layernorm', 'post_attention_layernorm']) add(name, hidden);
    for (const name of ['q', 'k', 'v']) add(`self_attn.${name}_proj`, heads, hidden);
    add('self_attn.o_proj', hidden, heads);
    for (const name of ['gate', 'up', 'down']) add(`mlp.${name}_proj`, hidden, hidden);
  }
  let end = 0;
  const table = tensors.map(([name, sizes]) => {
    const start = end;
    end += 2 * sizes.reduce((product, size) => product * size, 1);
    return [name, { dtype: 'F16', shape: sizes, data_offsets: [start, end] }];
  });
  const header = Buffer.from(JSON.stringify(Object.fromEntries(table)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  let state = 7;
  const weights = Uint16Array.from({ length: end / 2 }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 0x3000 + ((state >>> 16) & 0x8bff); // either sign, 0.125 to 0.5
  });
  fs.writeFileSync(path.join(made, 'model.safetensors'), Buffer.concat([length, header, Buffer.from(weights.buffer)]));
  return made;
}

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

test('figures and counts are those of the model of this architecture and shape, and of no other', async () => {
  const { publishedFor, publishedPlan } = await plain('plan');
  const llama = { architecture: 'llama', layers: 32, heads: 32, keyValueHeads: 32 };
  const chosen = async (config: object) => {
    const published = await publishedFor({ ...llama, ...config });
    const plan = publishedPlan(published);
    return [published?.name, plan && path.basename(plan)];
  };
  assert.equal(await chosen({}), ['LLaMA-7B', 'llama-7b.json']);
  assert.equal(await chosen({ layers: 60, heads: 52, keyValueHeads: 52 }), ['LLaMA-33B', 'llama-33b.json']);
  assert.equal(await chosen({ architecture: 'opt', layers: 64, heads: 72, keyValueHeads: 72 }), ['OPT-66B', undefined]);
  assert.equal(await chosen({ architecture: 'opt' }), [undefined, undefined]); // OPT-6.7B
  assert.equal(await chosen({ keyValueHeads: 8 }), [undefined, undefined]);
  assert.equal(await chosen({ layers: 40, heads: 40, keyValueHeads: 40 }), [undefined, undefined]);
});

test('published figures are those of the paper: table 4 has the same dense and CHAI as table 1', async () => {
  const [llama] = json(paper, 'published.json').models;
  const absolute = (task: string) => [
    llama.accuracy[task],
    ...['chai', 'chai-qkv'].map((name) => llama.accuracy[task] + llama[name][task]),
  ];
  for (const [task, figures] of Object.entries({ piqa: [79.8, 77.8, 61.93], arc_challenge: [47.5, 47.0, 41.29] }))
    assert.equal(
      absolute(task).map((value) => value.toFixed(2)),
      figures.map((value) => value.toFixed(2)),
    );
});

test('the script makes a table of dense, CHAI, CHAI-static and CHAI-QKV from text', async () => {
  const { cells, out, text: table, result } = await tables(starter, evaluateFixtures, ['--text', text, '--samples', '4']);
  assert.match(table, /^\| {2}\| PIQA.*\| HellaSwag \(norm\).*\| ARC-E.*\| BoolQ.*\|\n/);
  assert.equal(Object.keys(cells).slice(2), ['items', 'dense, %', 'chai, points', 'chai-static, points', 'chai-qkv, points']);
  assert.equal(cells.items, ['3', '3', '3', '3']);
  for (const cell of cells['dense, %'] ?? []) assert.match(cell, /^\d+\.\d ± \d+\.\d$/);
  for (const name of ['chai', 'chai-static', 'chai-qkv'])
    for (const cell of cells[`${name}, points`] ?? []) assert.match(cell, /^[+−]\d+\.\d ± \d+\.\d$/);

  const plan = await readHeadPlan(path.join(out, 'head-plan.json'));
  const kept = plan.layers.reduce((sum, { clusters = 0 }) => sum + clusters, 0);
  assert.ok(kept < 32);
  const keptHeads = (share: number) => Math.round(32e6 * share) / 1e6; // bytes are means over items
  for (const { task, results } of result.tasks) {
    const heads = results.map(({ attention, cacheBytes: { keys, values, denseKeys, denseValues } }) => [
      attention,
      keptHeads(keys / denseKeys),
      keptHeads(values / denseValues),
    ]);
    const expected = [
      ['dense', 32, 32],
      ['chai', kept, 32],
      ['chai-static', kept, 32],
      ['chai-qkv', kept, kept],
    ];
    assert.equal(heads, expected, task);
  }
  const saved = [(32 - kept) / 64, (32 - kept) / 32].map((share) => (share * 100).toFixed(1));
  assert.match(table, new RegExp(`\\nK/V cache saved: ${saved[0]} %, ${saved[1]} % with chai-qkv`));
  assert.is(result.counts, 'the elbows of text.txt');
  assert.is(result.published, undefined);
});

test('a plan with members needs no text, one without them gives dense and CHAI alone', async () => {
  const withMembers = await tables(starter, evaluateFixtures, ['--plan', path.join(starter, 'head-plan.json'), '--limit', '2']);
  assert.ok(withMembers.cells['chai-static, points'] && withMembers.cells['chai-qkv, points']);
  assert.match(withMembers.text, /K\/V cache saved: 7\.8 %, 15\.6 % with chai-qkv/); // 5 of 32 heads' keys
  const without = await tables(starter, evaluateFixtures, ['--plan', otherPlan, '--limit', '2']);
  assert.equal(Object.keys(without.cells).slice(2), ['items', 'dense, %', 'chai, points']);
});

test("a plan's clustering, W and S are kept, with text and without; --clustering comes first", async () => {
  const of = ({ clustering, warmupTokens, warmupStart }: HeadPlan) => ({ clustering, warmupTokens, warmupStart });
  const args = ['--plan', otherPlan, '--limit', '2'];
  assert.equal(of((await tables(starter, evaluateFixtures, args)).result.plan), settings);
  const { result, out } = await tables(starter, evaluateFixtures, [...args, '--text', text, '--samples', '4', '--length', '64']);
  assert.equal(of(result.plan), settings);
  const found = await readHeadPlan(path.join(out, 'head-plan.json'));
  assert.equal(of(found), settings);
  assert.ok(found.layers.every(({ clusters, clusterOf }) => clusters === 3 && clusterOf?.length === 8));
  const kmeans = await tables(starter, evaluateFixtures, [...args, '--clustering', 'kmeans']);
  assert.equal(of(kmeans.result.plan), { ...settings, clustering: 'kmeans' });
});

test("a model of a published shape takes the published counts, and the paper's rows stand beside its own", async () => {
  const data = path.join(folder, 'data');
  fs.mkdirSync(data);
  const sentence = path.join(folder, 'sentence.txt');
  fs.writeFileSync(sentence, 'The old king saw the fox in the garden, and then the river carried the stone to the house of the soldier.');
  const item = JSON.stringify({ query: 'Question: Which is cold?', choices: ['ice', 'fire'], gold: 0 });
  for (const task of ['piqa', 'arc_challenge', 'boolq']) fs.writeFileSync(path.join(data, `${task}.jsonl`), `${item}\n${item}\n`);
  const { cells, text: table, result } = await tables(llama7b(), data, ['--text', sentence, '--samples', '2', '--length', '8']);
  assert.is(result.counts, 'llama-7b.json');
  assert.is(result.published?.name, 'LLaMA-7B');
  assert.match(table, /K\/V cache saved: 19\.1 %, 38\.3 % with chai-qkv/);
  assert.equal(Object.keys(cells).slice(3), [
    'dense, %',
    'published dense, LLaMA-7B',
    'chai, points',
    'published chai, LLaMA-7B',
    'chai-static, points',
    'published chai-static, LLaMA-7B',
    'chai-qkv, points',
    'published chai-qkv, LLaMA-7B',
  ]);
  assert.equal(cells['published dense, LLaMA-7B'], ['79.8', '47.5', '76.0']);
  assert.equal(cells['published chai, LLaMA-7B'], ['−2.0', '−0.5', '+0.1']);
  assert.equal(cells['published chai-static, LLaMA-7B'], ['−4.0', '−3.7', '−0.8']);
  assert.equal(cells['published chai-qkv, LLaMA-7B'], ['−17.87', '−6.21', '']);
});

test('what is missing is said, and the help says what the guide says', async () => {
  const args = [starter, '--data', evaluateFixtures, '--out', path.join(folder, 'none')];
  const nothing = await reproduce(args);
  assert.is(nothing.code, 1);
  assert.match(nothing.err, /no cluster counts are published for this model: give --text, or --plan/);
  const short = await reproduce([...args, '--text', path.join(evaluateFixtures, 'perplexity.txt')]);
  assert.is(short.code, 1);
  assert.match(short.err, /passages? of 256 tokens/);
  assert.match((await reproduce([...args.slice(0, 2), folder, ...args.slice(3), '--text', text])).err, /holds none of piqa/);
  const stranger = await reproduce([...args, '--plan', path.join(paper, 'plans', 'llama-7b.json'), '--text', text]);
  assert.match(stranger.err, /made for a model with layers 32, but this one has 4/);

  const help = await reproduce(['--help']);
  assert.is(help.code, 0);
  assert.is((await reproduce([])).code, 2);
  const guide = fs.readFileSync(path.join(root, 'docs', 'accuracy.md'), 'utf8').split(/^## /m);
  const section = guide.find((part) => part.startsWith("The paper's tables")) ?? '';
  const flags = [...section.matchAll(/--[a-z][a-z-]*/g)].map(([flag]) => flag);
  assert.ok(flags.length > 5);
  for (const flag of flags) assert.ok(help.out.includes(flag), flag);
});

test.run();

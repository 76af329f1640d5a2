// Every example runs and says what is true. In: examples/. Out: their output, checked against the API and against plain arithmetic.
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { loadModel, type Model } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { slowModel } from './models';
import { type Meanwhile, root, script, starter } from './programs';

const folder = path.join(root, 'examples');
const tested = new Set<string>();

function example(name: string, args: string[] = [], meanwhile?: Meanwhile) {
  tested.add(name);
  return script(path.join(folder, name), args, undefined, meanwhile);
}

async function lines(name: string, args: string[] = []): Promise<string[]> {
  const { code, out, err } = await example(name, args);
  assert.is(err, '');
  assert.is(code, 0);
  return out.trimEnd().split('\n');
}

let model: Model;
test.before(async () => {
  model = await loadModel(starter);
});
test.after(() => model?.close());

test('stream.mjs', async () => {
  const { text, usage } = await model.complete('Far away', { maxTokens: 60, temperature: 0.7, seed: 7 });
  const counts = `${usage.promptTokens} prompt tokens, ${usage.completionTokens} generated, ended by length`;
  assert.equal((await lines('stream.mjs', ['Far away'])).join('\n'), `Far away${text}\n${counts}`);
});

test('common_js.cjs, also with an error', async () => {
  const { text } = await model.complete('The old man said', { maxTokens: 30 });
  const [first, last] = await lines('common_js.cjs');
  assert.is(first, `The old man said${text.split('\n')[0]}`);
  assert.is(last, `ended by ${text.includes('\n') ? 'stop' : 'length'}`);
  const { code, err } = await example('common_js.cjs', ['x', '/no/such/model']);
  assert.is(code, 1);
  assert.match(err, /^MODEL_NOT_FOUND: .+\n$/);
});

/** Ids that greedy decoding gives after others. */
async function continued(ids: number[], maxTokens: number): Promise<number[]> {
  const made: number[] = [];
  for await (const { id } of model.generate(ids, { maxTokens })) made.push(id);
  return made;
}

test('chat_session.mjs: turns in one cache say what the same tokens say anew', async () => {
  const said = await lines('chat_session.mjs');
  assert.equal(
    said.map((line) => line.split(':')[0]),
    ['turn 1', 'turn 2', 'fork', 'again'],
  );
  const texts = said.map((line) => JSON.parse(/"(?:[^"\\]|\\.)*"/.exec(line)?.[0] ?? '""'));
  const turns = ['Once there was a king who had three sons', '\nThe youngest', '\nBut the eldest'];
  const ids: number[] = [];
  for (const [i, turn] of turns.entries()) {
    ids.push(...model.tokenizer.encode(turn));
    assert.is(texts[i], (await model.complete([...ids], { maxTokens: 20 })).text, said[i]);
    ids.push(...(await continued([...ids], 20)));
  }
  assert.is(texts[3], texts[1]); // cut back and asked again
  const sent = said.slice(0, 2).map((line) => Number(/\((\d+) tokens sent/.exec(line)?.[1]));
  assert.equal(
    sent,
    turns.slice(0, 2).map((turn) => model.tokenizer.encode(turn).length),
  );
});

test('many_at_once.mjs: what each says alone, in fewer steps', async () => {
  const said = await lines('many_at_once.mjs');
  assert.is(said.length, 17);
  const totals = /^384 tokens in (\d+) steps, up to (\d+) sequences in one$/.exec(said[16] ?? '');
  assert.ok(totals, said[16]);
  assert.ok(Number(totals[1]) < 384 / 2, `${totals[1]} steps for 384 tokens`);
  assert.ok(Number(totals[2]) > 1 && Number(totals[2]) <= 16);
  for (const [i, animal] of [
    [0, 'fox'],
    [15, 'bee'],
  ] as const) {
    const { text } = await model.complete(`The little ${animal} said`, { maxTokens: 24, ignoreEos: true });
    assert.is(said[i], `The little ${animal} said${text.replaceAll('\n', ' ')}`);
  }
});

test('score.mjs: the perplexity that logits give', async () => {
  const text = 'The rabbit ran down the hill.';
  const ids = model.tokenizer.encode(text);
  const said = await lines('score.mjs', [text]);
  assert.is(said.length, 2);
  for (const [i, attention] of ['dense', 'chai'].entries()) {
    const session = await model.createSession({ attention });
    const logits = await session.evaluate(ids, { logits: 'all' });
    await session.close();
    const { vocabularySize } = model.config;
    let nats = 0;
    for (let t = 1; t < ids.length; ++t) {
      const row = logits.subarray((t - 1) * vocabularySize, t * vocabularySize);
      const most = row.reduce((a, b) => Math.max(a, b));
      const sum = row.reduce((total, x) => total + Math.exp(x - most), 0);
      nats += most + Math.log(sum) - (row[ids[t] ?? 0] ?? Number.NaN);
    }
    nats /= ids.length - 1;
    const [, count, shown, perplexity] =
      new RegExp(`^${attention}: (\\d+) tokens, ([\\d.]+) nats a token, perplexity ([\\d.]+)$`).exec(said[i] ?? '') ?? [];
    assert.is(Number(count), ids.length);
    assert.ok(Math.abs(Number(shown) - nats) < 2e-4, `${attention}: ${shown} against ${nats}`);
    assert.ok(Math.abs(Number(perplexity) / Math.exp(nats) - 1) < 2e-3);
  }
});

test('head_maps.mjs: clusters as planned, each head in one of them, bytes of whole pages', async () => {
  const said = await lines('head_maps.mjs');
  assert.is(said.length, 6);
  const plan = JSON.parse(fs.readFileSync(path.join(starter, 'head-plan.json'), 'utf8'));
  for (const [l, { clusters }] of plan.layers.entries()) {
    assert.match(said[l] ?? '', new RegExp(`^layer ${l}: ${clusters} clusters  `));
    const groups = [...(said[l] ?? '').matchAll(/(\d+):\{([\d ]+)\}/g)].map(([, head, members]) => [head, members?.split(' ')] as const);
    assert.is(groups.length, clusters);
    for (const [representative, members] of groups) assert.ok(members?.includes(representative ?? ''));
    assert.equal(
      groups.flatMap(([, members]) => (members ?? []).map(Number)).sort((a, b) => a - b),
      [0, 1, 2, 3, 4, 5, 6, 7],
    );
  }
  const page = 64 * 16 * 2; // rows x head size x float16
  assert.match(said[4] ?? '', new RegExp(`^dense: \\d+ tokens, keys ${32 * page} B, values ${32 * page} B$`));
  assert.match(said[5] ?? '', new RegExp(`^chai: \\d+ tokens, keys ${27 * page} B, values ${32 * page} B$`));
});

test('abort.mjs: the session holds just what was handed out', async () => {
  const said = await lines('abort.mjs');
  const prompt = model.tokenizer.encode('Far away in the north');
  assert.is(said[0], `left the loop after 5 tokens; the session has ${prompt.length + 5}`);
  assert.is(said[1], `aborted after 10 tokens with ABORTED; the session has ${prompt.length + 10}`);
  assert.is(said[2], `stopped after 15 tokens; the session has ${prompt.length + 15}`);
  const { text } = await model.complete('Far away in the north', { maxTokens: 15 });
  assert.is(said[3], `all of it: ${JSON.stringify(`Far away in the north${text}`)}`);
});

/** Where the server listens, once it does. */
function address(child: ChildProcessWithoutNullStreams): Promise<string> {
  return new Promise((resolve, reject) => {
    let seen = '';
    child.stdout.on('data', (chunk: string) => {
      seen += chunk;
      const url = /listening on (http:\/\/127\.0\.0\.1:\d+)\n/.exec(seen)?.[1];
      if (url) resolve(url);
    });
    child.on('close', () => reject(new Error(`the server ended: ${seen}`)));
  });
}

const post = (url: string, body: string, signal?: AbortSignal) => fetch(`${url}/generate`, { method: 'POST', body, signal });

test('http_server.mjs: streams, refuses nonsense with 400, ends on SIGTERM', async () => {
  const { text } = await model.complete('Once upon a time', { maxTokens: 30 });
  const { code, err } = await example('http_server.mjs', ['0'], async (child) => {
    const url = await address(child);
    const answer = await post(url, JSON.stringify({ prompt: 'Once upon a time', maxTokens: 30 }));
    assert.is(answer.status, 200);
    assert.is(await answer.text(), text);
    for (const body of ['{', '{}', 'null', '{"prompt": "x", "loud": 1}', JSON.stringify({ prompt: 'word '.repeat(300) })]) {
      const refused = await post(url, body);
      assert.is(refused.status, 400, body);
      assert.match(((await refused.json()) as { error: { code: string } }).error.code, /^(OPTION_INVALID|CONTEXT_OVERFLOW)$/);
    }
    assert.is((await fetch(`${url}/nothing`)).status, 404);
    child.kill('SIGTERM');
  });
  assert.is(code, 0);
  assert.is(err, '');
});

test('http_server.mjs: a client that goes away ends its generation', async () => {
  const { code } = await example('http_server.mjs', ['0', slowModel()], async (child) => {
    const url = await address(child);
    const gone = new AbortController();
    const answer = await post(url, JSON.stringify({ prompt: 'Once', maxTokens: 4000, ignoreEos: true }), gone.signal);
    await answer.body?.getReader().read();
    gone.abort();
    const stats = async () => (await (await fetch(`${url}/stats`)).json()) as { memory: { cacheUsed: number }; stats: { steps: number } };
    let now = await stats();
    for (; now.memory.cacheUsed > 0; now = await stats()) await new Promise((resolve) => setTimeout(resolve, 20));
    assert.ok(now.stats.steps < 4000, `${now.stats.steps} steps`);
    child.kill('SIGTERM');
  });
  assert.is(code, 0);
});

test('no example is left out', () => {
  assert.equal([...tested].sort(), fs.readdirSync(folder).sort());
});

test.run();

// `chai-llm generate`: prompts from everywhere, text, JSON, statistics, interruption. In: the built command line. Out: what the API gives.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { type GenerateOptions, loadModel, type Model } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { modelWithTemplate, slowModel, templated } from './models';
import { cli, starter, written } from './programs';

const prompt = 'Once upon a time';
const short = ['--max-tokens', '20'];

const models = new Map<string, Model>();
test.after(async () => {
  for (const model of models.values()) await model.close();
});

/** The same request through the API. */
async function expected(text: string, options: GenerateOptions, attention = 'auto') {
  const model = models.get(attention) ?? (await loadModel(starter, { attention }));
  models.set(attention, model);
  return model.complete(text, options);
}

test('streams what the API gives, and nothing else', async () => {
  const { text } = await expected(prompt, { maxTokens: 20 });
  assert.ok(text.length > 20);
  assert.equal(await cli(['generate', starter, prompt, ...short]), { code: 0, out: `${text}\n`, err: '' });
  assert.equal(await cli(['generate', starter, ...prompt.split(' '), ...short]), { code: 0, out: `${text}\n`, err: '' });
});

test('the prompt may come through a pipe or from a file; its last line break is not part of it', async () => {
  const { text } = await expected(prompt, { maxTokens: 20 });
  for (const input of [prompt, `${prompt}\n`, `${prompt}\r\n`])
    assert.equal(await cli(['generate', starter, ...short], input), { code: 0, out: `${text}\n`, err: '' });
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-surface-'));
  const file = path.join(folder, 'prompt.txt');
  fs.writeFileSync(file, `${prompt}\n`);
  assert.is((await cli(['generate', starter, '--file', file, ...short])).out, `${text}\n`);
  fs.writeFileSync(file, `${prompt}\n\n`);
  const { text: afterBreak } = await expected(`${prompt}\n`, { maxTokens: 20 });
  assert.is((await cli(['generate', starter, '--file', file, ...short])).out, `${afterBreak}\n`);
  assert.is.not(afterBreak, text);
  fs.rmSync(folder, { recursive: true });
});

test('--json gives one object; cache bytes are those of whole pages', async () => {
  const { text, usage } = await expected(prompt, { maxTokens: 20 });
  const { code, out, err } = await cli(['generate', starter, prompt, ...short, '--json']);
  assert.is(code, 0);
  assert.is(err, '');
  assert.is(out.trim().split('\n').length, 1);
  const result = JSON.parse(out);
  assert.is(result.text, text);
  assert.equal(result.usage, usage);
  assert.is(result.usage.completionTokens, 20);
  assert.is(result.finishReason, 'length');
  assert.is(result.attention, 'chai');
  for (const name of ['promptMs', 'decodeMs', 'timeToFirstTokenMs', 'totalMs']) assert.ok(result.timings[name] > 0, name);
  const page = 64 * 16 * 2; // rows x head size x float16; 26 tokens fill one page of each head
  assert.equal(result.cacheBytes, { keys: (3 + 3 * 8) * page, values: 4 * 8 * page, denseKeys: 4 * 8 * page, denseValues: 4 * 8 * page });
});

test('--attention dense keeps all keys', async () => {
  const { out } = await cli(['generate', starter, prompt, ...short, '--json', '--attention', 'dense']);
  const { text, attention, cacheBytes } = JSON.parse(out);
  assert.is(attention, 'dense');
  assert.is(cacheBytes.keys, cacheBytes.denseKeys);
  assert.is(text, (await expected(prompt, { maxTokens: 20 }, 'dense')).text);
});

test('--cache-type and --threads reach the model', async () => {
  const { out } = await cli(['generate', starter, prompt, ...short, '--json', '--stats', '--cache-type', 'float32', '--threads', '1']);
  assert.is(JSON.parse(out).cacheBytes.values, 4 * 8 * 64 * 16 * 4);
  const { err } = await cli(['generate', starter, prompt, ...short, '--stats', '--threads', '1']);
  assert.match(err, '1 thread)');
});

for (const [flag, value, option] of [
  ['--temperature', '0.4', { temperature: 0.4 }],
  ['--top-k', '2', { topK: 2 }],
  ['--top-p', '0.3', { topP: 0.3 }],
  ['--min-p', '0.5', { minP: 0.5 }],
  ['--repetition-penalty', '1.8', { repetitionPenalty: 1.8 }],
  ['--seed', '4', { seed: 4 }],
] as const)
  test(`${flag} reaches the sampler`, async () => {
    const base = { maxTokens: 20, temperature: 1.2, seed: 3 };
    const { text } = await expected(prompt, { ...base, ...option });
    assert.is.not(text, (await expected(prompt, base)).text); // the option matters here
    const flags = ['--temperature', '1.2', '--seed', '3', flag, value]; // the last of two equal flags counts
    assert.is((await cli(['generate', starter, prompt, ...short, ...flags])).out, `${text}\n`);
  });

test('--ignore-eos goes on past the end', async () => {
  const options = { maxTokens: 200, temperature: 3 };
  const flags = ['generate', starter, prompt, '--max-tokens', '200', '--temperature', '3', '--json'];
  let seed = 0; // the first seed whose text ends by itself
  while ((await expected(prompt, { ...options, seed })).finishReason !== 'stop') if (++seed === 200) throw new Error('no text ended');
  const [ended, went] = [await cli([...flags, '--seed', String(seed)]), await cli([...flags, '--seed', String(seed), '--ignore-eos'])];
  assert.is(JSON.parse(ended.out).finishReason, 'stop');
  assert.is(JSON.parse(went.out).usage.completionTokens, 200);
});

test('--stop ends the text before the first of the given ones', async () => {
  const { text } = await expected(prompt, { maxTokens: 20 });
  const middle = text.slice(12, 16);
  const { out } = await cli(['generate', starter, prompt, ...short, '--json', '--stop', 'no such text', '--stop', middle]);
  const result = JSON.parse(out);
  assert.is(result.text, text.slice(0, text.indexOf(middle)));
  assert.is(result.finishReason, 'stop');
});

test('--stats ends with one line on standard error', async () => {
  const { code, out, err } = await cli(['generate', starter, prompt, ...short, '--stats']);
  assert.is(code, 0);
  assert.is(out, `${(await expected(prompt, { maxTokens: 20 })).text}\n`);
  assert.match(
    err,
    /^20 tokens · [\d.]+ tokens\/s · first token [\d.]+ m?s · K\/V cache 121 kB \(dense 131 kB, -7\.8 %\) · chai · cpu \([^)]+\)\n$/,
  );
});

test("--chat applies the model's template once, without a second start token", async () => {
  const model = modelWithTemplate();
  const { code, out } = await cli(['generate', model, '--chat', 'Tell me a story', ...short, '--json']);
  assert.is(code, 0);
  const result = JSON.parse(out);
  const loaded = await loadModel(starter);
  const ids = loaded.tokenizer.encode(templated([['user', 'Tell me a story']]), { addSpecialTokens: false });
  assert.is(result.usage.promptTokens, ids.length);
  assert.is(result.text, (await loaded.complete(ids, { maxTokens: 20 })).text);
  await loaded.close();
});

test('Ctrl-C ends the generation, keeps what there is and exits with 130', async () => {
  const args = ['generate', slowModel(), prompt, '--max-tokens', '4000', '--ignore-eos', '--stats'];
  const { code, out, err } = await cli(args, undefined, async (child) => {
    await written(child);
    child.kill('SIGINT');
  });
  assert.is(code, 130);
  assert.ok(out.length > 1 && out.endsWith('\n'));
  const tokens = Number(/^(\d+) tokens? ·/.exec(err)?.[1]);
  assert.ok(tokens >= 1 && tokens < 4000, err);
});

test('a reader that goes away ends the program quietly', async () => {
  const args = ['generate', slowModel(), prompt, '--max-tokens', '4000', '--ignore-eos'];
  const { code, err } = await cli(args, undefined, async (child) => {
    await written(child);
    child.stdout.destroy();
  });
  assert.is(code, 0);
  assert.is(err, '');
});

test.run();

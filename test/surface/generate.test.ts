// `chai-llm generate`: prompts from everywhere, text, JSON, statistics, interruption. In: the built command line. Out: what the API gives.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { loadModel } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { modelWithTemplate, slowModel, templated } from './models';
import { cli, starter, written } from './programs';

const prompt = 'Once upon a time';
const short = ['--max-tokens', '20'];

/** The same request through the API. */
async function expected(text: string, options: Parameters<Awaited<ReturnType<typeof loadModel>>['complete']>[1], attention = 'auto') {
  const model = await loadModel(starter, { attention });
  const result = await model.complete(text, options);
  await model.close();
  return result;
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

test('sampling options reach the sampler', async () => {
  const options = { maxTokens: 20, temperature: 1.2, topK: 50, topP: 0.95, minP: 0.01, repetitionPenalty: 1.1, seed: 3 };
  const flags = ['--temperature', '1.2', '--top-k', '50', '--top-p', '0.95', '--min-p', '0.01', '--repetition-penalty', '1.1'];
  const run = (seed: string) => cli(['generate', starter, prompt, ...short, ...flags, '--seed', seed]);
  const { text } = await expected(prompt, options);
  assert.is((await run('3')).out, `${text}\n`);
  assert.is.not((await run('4')).out, `${text}\n`);
  const other = await expected(prompt, { ...options, topK: 0, minP: 0, repetitionPenalty: 1 });
  assert.is.not(other.text, text); // the options above matter
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

// `chai-llm chat` through a pipe: turns, the cache that stays, interruption. In: the built command line. Out: what the API gives.
import { loadModel, type Model } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { modelWithTemplate, slowModel, templated } from './models';
import { cli, starter, written } from './programs';

interface Answer {
  text: string;
  usage: { promptTokens: number; completionTokens: number };
  finishReason: string;
  reusedTokens: number;
  cacheBytes: { keys: number; denseKeys: number };
}

const answers = (out: string): Answer[] =>
  out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

let model: Model;
test.before(async () => {
  model = await loadModel(starter);
});
test.after(() => model?.close());

/** The whole conversation computed anew, without a cache from earlier turns. */
async function anew(text: string, maxTokens: number) {
  const ids = model.tokenizer.encode(text, { addSpecialTokens: false });
  return { tokens: ids.length, text: (await model.complete(ids, { maxTokens })).text };
}

test('later turns send only what is new and answer as if all were sent', async () => {
  const turns = ['Who lived in the wood?', 'And what did the fox say?', 'Then they went home.'];
  const args = ['chat', modelWithTemplate(), '--system', 'You tell stories.', '--max-tokens', '16', '--json'];
  const { code, out, err } = await cli(args, `${turns.join('\n')}\n`);
  assert.is(code, 0);
  assert.is(err, '');
  const given = answers(out);
  assert.is(given.length, 3);
  const conversation: [string, string][] = [['system', 'You tell stories.']];
  for (const [i, { text, usage, reusedTokens, cacheBytes }] of given.entries()) {
    conversation.push(['user', turns[i] ?? '']);
    const whole = await anew(templated(conversation), 16);
    assert.is(text, whole.text, `turn ${i}`);
    assert.is(reusedTokens + usage.promptTokens, whole.tokens, `turn ${i}`);
    if (i === 0) assert.is(reusedTokens, 0);
    else assert.ok(reusedTokens > usage.promptTokens, `turn ${i} reuses ${reusedTokens}`);
    assert.ok(cacheBytes.keys < cacheBytes.denseKeys);
    conversation.push(['assistant', text]);
  }
});

test('answers are plain lines without --json; blank lines are no turns', async () => {
  const directory = modelWithTemplate();
  const { code, out, err } = await cli(['chat', directory, '--max-tokens', '8', '--stop', '\n', '--stats'], 'Hello\n\n   \nAnd you?');
  assert.is(code, 0);
  const first = (await model.complete(templated([['user', 'Hello']]), { maxTokens: 8, stop: '\n' })).text;
  assert.ok(out.startsWith(`${first}\n`));
  assert.is(out.split('\n').length, 3); // two answers, each with its line break
  assert.is(err.match(/K\/V cache/g)?.length, 2);
});

test('a model without a template continues the text, and says so', async () => {
  const { code, out, err } = await cli(['chat', starter, '--max-tokens', '10', '--json'], 'Once there was a king\nOne day\n');
  assert.is(code, 0);
  assert.match(err, /^notice: this model has no chat template[^\n]*\n$/);
  const [first, second] = answers(out);
  assert.is(first?.text, (await anew('Once there was a king', 10)).text);
  assert.is(second?.text, (await anew(`Once there was a king${first?.text}\nOne day`, 10)).text);
  assert.ok((second?.reusedTokens ?? 0) > 0);
});

test('when the context is full the oldest turns are forgotten, and the program goes on', async () => {
  const turns = Array.from({ length: 6 }, (_, i) => `Turn ${i}: tell me about the fox and the hen and the wolf in the wood.`);
  const { code, out, err } = await cli(['chat', modelWithTemplate(), '--max-tokens', '40', '--json'], turns.join('\n'));
  assert.is(code, 0);
  const given = answers(out);
  assert.is(given.length, 6);
  assert.match(err, /^notice: the context is full; the oldest 2 messages are forgotten\n/);
  for (const { usage, reusedTokens } of given) {
    assert.ok(usage.promptTokens + reusedTokens + 40 <= 256);
    assert.is(usage.completionTokens, 40);
  }
});

test('a turn that can never fit ends a piped chat with an error', async () => {
  const { code, err } = await cli(['chat', modelWithTemplate(), '--max-tokens', '8'], 'word '.repeat(300));
  assert.is(code, 1);
  assert.match(err, /^error CONTEXT_OVERFLOW: [^\n]+\n$/);
});

test('Ctrl-C stops the answer and not the program', async () => {
  const args = ['chat', slowModel(), '--max-tokens', '3000', '--ignore-eos', '--stats'];
  const { code, err } = await cli(args, undefined, async (child) => {
    for (const line of ['Hello', 'And more']) {
      const [begun, ended] = [written(child), written(child, 'K/V cache', 'stderr')];
      child.stdin.write(`${line}\n`);
      await begun;
      child.kill('SIGINT');
      await ended;
    }
    child.stdin.end();
  });
  assert.is(code, 0);
  const tokens = [...err.matchAll(/^(\d+) tokens? ·/gm)].map(([, count]) => Number(count));
  assert.is(tokens.length, 2);
  for (const count of tokens) assert.ok(count > 0 && count < 3000, String(count));
});

test.run();

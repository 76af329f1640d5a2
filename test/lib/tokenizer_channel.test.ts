// The tokenizer thread as built: answers, refusals that arrive typed, and what happens when it dies or is closed.
import path from 'node:path';
import type { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ModelFiles } from '../../lib/model_files';
import type { TokenizerChannel as Channel } from '../../lib/tokenizer_channel';

const { TokenizerChannel } = require('../../dist/tokenizer_channel.js') as { TokenizerChannel: new (files: ModelFiles) => Channel };
const starter = path.join(__dirname, '..', '..', 'models', 'starter');
const files = (fields: Partial<ModelFiles> = {}) =>
  ({ directory: starter, tokenizer: path.join(starter, 'tokenizer.json'), tokenizerConfig: { bos_token: '<s>' }, ...fields }) as ModelFiles;

async function withChannel(given: Partial<ModelFiles>, work: (channel: Channel) => Promise<void>): Promise<void> {
  const channel = new TokenizerChannel(files(given));
  try {
    await work(channel);
  } finally {
    await channel.close();
  }
}

async function refused(work: Promise<unknown>, code: string, words: RegExp): Promise<void> {
  const error = await work.then(
    () => undefined,
    (caught) => caught,
  );
  assert.is(error?.code, code, String(error?.stack));
  assert.match(error.message, words);
}

test('texts, conversations and streams', () =>
  withChannel({ chatTemplateFile: '{{ bos_token }}{{ messages[0].content }}' }, async (channel) => {
    assert.is((await channel.load()).size, 1024);
    assert.equal(await channel.encode('Hi', true), Int32Array.of(41, 74));
    assert.equal(await channel.encodeChat([{ role: 'user', content: 'Hi' }]), Int32Array.of(0, 41, 74));
    // 日 is the ids 164, 247, 100 (tokenizer.test.ts); each stream holds back its own unfinished character
    const [one, two] = [channel.open([]), channel.open([])];
    assert.equal(await one.push([41, 164]), ['H', '']);
    assert.equal(await two.push([74]), ['i']);
    assert.equal(await one.push([247, 100]), ['', '日']);
    assert.is(await two.close(), '');
    assert.equal(await one.push([164]), ['']);
    assert.is(await one.close(), '\uFFFD');
  }));

test('what the thread refuses arrives with its code', async () => {
  await withChannel({}, async (channel) => {
    await channel.load();
    await refused(channel.encodeChat([{ role: 'user', content: 'Hi' }]), 'OPTION_INVALID', /no chat template/);
    await refused(channel.encodeChat([{ role: 'user', content: 'Hi', call: () => 1 }]), 'OPTION_INVALID', /plain data/);
    assert.equal(await channel.encode('Hi', true), Int32Array.of(41, 74));
  });
  await withChannel({ tokenizer: path.join(starter, 'config.json') }, (channel) => refused(channel.load(), 'MODEL_INVALID', /no "model"/));
  await withChannel({ tokenizer: '/nowhere' }, (channel) => refused(channel.load(), 'MODEL_INVALID', /nowhere/));
});

test('a template that computes for long does not hold up the event loop', () =>
  withChannel(
    { chatTemplateFile: '{% for i in range(3) %}{% for j in range(100000) %}{% if j == 5 %}{% endif %}{% endfor %}{% endfor %}Hi' },
    async (channel) => {
      await channel.load();
      let turns = 0;
      const timer = setInterval(() => turns++, 1);
      const ids = await channel.encodeChat([{ role: 'user', content: '' }]);
      clearInterval(timer);
      assert.equal(ids, Int32Array.of(41, 74));
      assert.ok(turns >= 5, `the event loop turned ${turns} times`); // once, were the template computed on it
    },
  ));

test('when the thread dies, what waits is rejected, and so is what comes later', () =>
  withChannel({}, async (channel) => {
    await channel.load();
    const waiting = refused(channel.encode('Hi '.repeat(100000), true), 'CLOSED', /thread has ended.*load the model again/);
    await (channel as unknown as { worker: Worker }).worker.terminate();
    await waiting;
    await refused(channel.encode('Hi', true), 'CLOSED', /thread has ended/);
  }));

test('closing rejects what waits; twice is fine', async () => {
  const channel = new TokenizerChannel(files());
  const loading = refused(channel.load(), 'CLOSED', /model is closed/);
  await Promise.all([channel.close(), channel.close()]);
  await loading;
  await refused(channel.encode('Hi', true), 'CLOSED', /model is closed/);
});

test.run();

// Every example runs and says what it promises.
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { root, run } from './run';

const promises: Record<string, RegExp> = {
  'abort.mjs': /left after 5 tokens\nABORTED: .*\n.* ended by '(stop|length)'\n$/,
  'common_js.cjs': /\n30 tokens, \d+ tokens\/s\n$/,
  'head_maps.mjs': /layer 0: .*3 key heads kept\)\n[\s\S]*keys \d+ of \d+ bytes/,
  'many_at_once.mjs': /at most (1[0-6]|[2-9]) sequences in one\n$/,
  'perplexity.mjs': /dense: [\d.]+ nats[\s\S]*chai: [\d.]+ nats[\s\S]*chai-static: [\d.]+ nats/,
  'sessions.mjs': /^1: [\s\S]*\n2: [\s\S]*\nThere was once a fox/,
  'stream.mjs': /^Once upon a time.{20,}/,
};

for (const [name, words] of Object.entries(promises))
  test(name, async () => {
    const { code, stdout, stderr } = await run([path.join(root, 'examples', name)]);
    assert.is(code, 0, stderr);
    assert.match(stdout, words);
    assert.is(stderr, '');
  });

test('http_server.mjs streams over loopback and ends on SIGTERM', async () => {
  let body: Promise<string> | undefined;
  const { code } = await run([path.join(root, 'examples', 'http_server.mjs')], {
    onOutput: (text, kill) => {
      const address = /http:\S+(?=\n)/.exec(text)?.[0];
      if (!address || body) return;
      body = fetch(address, { method: 'POST', body: 'Once upon a time', headers: { connection: 'close' } }).then((response) =>
        response.text(),
      );
      body.finally(() => kill('SIGTERM'));
    },
  });
  assert.ok(((await body) ?? '').length > 50);
  assert.is(code, 0);
});

test('no example is left out here', () => {
  const files = fs.readdirSync(path.join(root, 'examples')).filter((file) => /\.[cm]js$/.test(file));
  assert.equal(files.sort(), [...Object.keys(promises), 'http_server.mjs'].sort());
});

test.run();

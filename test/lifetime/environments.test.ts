// Processes that end, and workers that come and go, in the middle of work. In: the scenes. Out: exit codes, empty stderr, equal tokens.
import { spawn } from 'node:child_process';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { native } from '../../lib/binding';
import { chaiPlan, generateOptions, ids, tinyModel, typescript } from './tiny_model';

const scenes = path.join(__dirname, 'scenes.ts');

interface Ended {
  code: number | null;
  signal: string | null;
  out: string;
  err: string;
}

function play(scene: string): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...typescript, scenes, scene], { timeout: 120000 });
    let [out, err] = ['', ''];
    child.stdout.on('data', (text) => {
      out += text;
    });
    child.stderr.on('data', (text) => {
      err += text;
    });
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, out: out.trim(), err }));
  });
}

const worker = (scene: string): Worker => new Worker(scenes, { workerData: scene, execArgv: typescript });
const message = (of: Worker): Promise<unknown> =>
  new Promise((resolve, reject) => {
    of.once('message', resolve);
    of.once('error', reject);
  });
const exit = (of: Worker): Promise<number> => new Promise((resolve) => of.once('exit', resolve));

for (const [scene, out] of [
  ['idle', 'tokens true'],
  ['exit-in-step', 'running'],
  ['exit-in-generation', 'running'],
  ['exit-in-load', 'loading'],
] as const)
  test(`a process ends cleanly: ${scene}`, async () => {
    assert.equal(await play(scene), { code: 0, signal: null, out, err: '' });
  });

test('several workers and the main thread generate the same at once', async () => {
  const workers = [0, 1, 2].map(() => worker('generate'));
  const ends = workers.map(exit);
  const texts = workers.map(message);
  const tiny = tinyModel();
  const model = await native.load(tiny.options, {});
  const generation = model.createSequence(chaiPlan()).generate(ids(8), generateOptions({ maxTokens: 24 }));
  const tokens: number[] = [];
  for (;;) {
    const ready = await generation.next();
    tokens.push(...ready.ids);
    if (ready.finish) break;
  }
  assert.is(tokens.length, 24);
  for (const text of await Promise.all(texts)) assert.is(text, tokens.join(' '));
  assert.equal(await Promise.all(ends), [0, 0, 0]);
  await model.close();
  tiny.remove();
});

for (const scene of ['busy', 'busy-callback'])
  test(`a worker can be terminated in the middle of work: ${scene}`, async () => {
    for (let round = 0; round < 3; round++) {
      const running = worker(scene);
      assert.is(await message(running), 'running');
      assert.is(await running.terminate(), 1);
    }
    const after = worker('generate');
    assert.type(await message(after), 'string');
    assert.is(await exit(after), 0);
  });

test.run();

// Waiting that a signal ends: no warning however many wait, no listener left behind, and nobody called who has let go.
import { getEventListeners, getMaxListeners, setMaxListeners } from 'node:events';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { onAbort, unlessAborted } from '../../lib/cancel';

const listeners = (signal: AbortSignal) => getEventListeners(signal, 'abort').length;

test('however many wait for a signal, Node.js warns of no leak; what the caller allows stays', async () => {
  const warnings: Error[] = [];
  const heard = (warning: Error) => void warnings.push(warning);
  process.on('warning', heard);
  const { signal } = new AbortController();
  const most = getMaxListeners(signal);
  const releases = Array.from({ length: 50 }, () => onAbort(signal, () => {}));
  for (const release of [...releases, ...releases]) release();
  assert.equal([listeners(signal), getMaxListeners(signal)], [0, most]);
  setMaxListeners(0, signal);
  onAbort(signal, () => {})(); // without a limit it stays
  await new Promise((resolve) => setImmediate(resolve));
  process.off('warning', heard);
  assert.equal(warnings, []);
});

test('a signal calls all who wait, once, but none who has let go', () => {
  const abort = new AbortController();
  const called: string[] = [];
  let last = () => {};
  const first = onAbort(abort.signal, () => called.push('first'));
  onAbort(abort.signal, () => {
    called.push('second');
    last();
  });
  last = onAbort(abort.signal, () => called.push('last'));
  first();
  abort.abort();
  abort.abort();
  assert.equal(called, ['second']);
});

test('two signals do not meet', () => {
  const [one, other] = [new AbortController(), new AbortController()];
  const called: number[] = [];
  onAbort(one.signal, () => called.push(1));
  onAbort(other.signal, () => called.push(2));
  other.abort();
  assert.equal(called, [2]);
  one.abort();
  assert.equal(called, [2, 1]);
});

test('waiting ends with the work or with the signal, and leaves no listener', async () => {
  const abort = new AbortController();
  assert.is(await unlessAborted(Promise.resolve(7), abort.signal, 'x'), 7);
  assert.is(listeners(abort.signal), 0);
  const waiting = [1, 2, 3].map(() => unlessAborted(new Promise(() => {}), abort.signal, 'the work').catch((error) => error.code));
  assert.is(listeners(abort.signal), 3);
  abort.abort();
  assert.equal(await Promise.all(waiting), ['ABORTED', 'ABORTED', 'ABORTED']);
  assert.is(listeners(abort.signal), 0);
});

test.run();

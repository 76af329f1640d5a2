// The iteration over a generation, on a scripted engine: what is handed out, held back, counted, and what stops the work.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { NativeGeneration, NativeTokens } from '../../lib/binding';
import { ChaiError } from '../../lib/errors';
import { complete, Generation, type Started, type Token } from '../../lib/generation';
import { checkGenerateOptions, type GenerateOptions } from '../../lib/options';

interface Scene {
  generation: Generation;
  /** Calls of native.stop, in order. */
  stops: number[];
  starts: number;
  released: number;
  pulls: number;
  stream: Started['stream'];
}

const batch = (text: string, finish?: 'stop' | 'length'): NativeTokens => ({
  ids: Int32Array.from(text, (letter) => letter.charCodeAt(0)),
  logprobs: Float32Array.from(text, () => -1.5),
  ...(finish ? { finish, stopToken: finish === 'stop' ? 2 : undefined } : {}),
});
const never = <Result>() => new Promise<Result>(() => {});

/** An engine whose tokens are letters. After the last batch it waits until it is stopped, as an engine in a long step does. */
function scene(batches: NativeTokens[], options: GenerateOptions = {}, start: () => Promise<void> = async () => {}): Scene {
  const result = { stops: [], starts: 0, released: 0, pulls: 0 } as unknown as Scene; // live: read it as it changes
  let end = (_: Error) => {};
  const native: NativeGeneration = {
    next: () => {
      const next = batches[result.pulls++];
      return next ? Promise.resolve(next) : new Promise((_, reject) => (end = reject));
    },
    stop: async (delivered) => {
      result.stops.push(delivered);
      end(Object.assign(new Error('the generation was stopped'), { code: 'ABORTED' }));
    },
    timings: () => ({ promptMs: 10, promptTokens: 5, decodeMs: 20, decodeTokens: 4 }),
  };
  result.stream = { push: async (ids: number[]) => ids.map((id) => String.fromCharCode(id)), close: async () => '' };
  const begin = async (halt: AbortSignal): Promise<Started> => {
    ++result.starts;
    await Promise.race([start(), new Promise((_, reject) => halt.addEventListener('abort', () => reject(new Error('halted'))))]);
    return { native, promptTokens: 5, stream: result.stream, release: async () => void ++result.released };
  };
  result.generation = new Generation(begin, checkGenerateOptions(options), 'at caller');
  return result;
}

/** Until the engine was asked for its batch `count`: all before it have been handed out. */
async function pulled(s: Scene, count: number): Promise<void> {
  while (s.pulls < count) await new Promise((resolve) => setImmediate(resolve));
}

async function drain(generation: Generation): Promise<Token[]> {
  const tokens: Token[] = [];
  for await (const token of generation) tokens.push(token);
  return tokens;
}

async function failure(work: Promise<unknown>): Promise<ChaiError> {
  const error = await work.then(
    () => undefined,
    (caught) => caught,
  );
  assert.instance(error, ChaiError);
  return error;
}

test('one token a yield, then the totals', async () => {
  const s = scene([batch('ab'), batch('c', 'length')], { logprobs: true });
  assert.equal(await drain(s.generation), [
    { id: 97, text: 'a', logprob: -1.5 },
    { id: 98, text: 'b', logprob: -1.5 },
    { id: 99, text: 'c', logprob: -1.5 },
  ]);
  const { usage, finishReason, timings } = s.generation;
  assert.equal(usage, { promptTokens: 5, completionTokens: 3, totalTokens: 8 });
  assert.is(finishReason, 'length');
  assert.is(timings?.promptTokensPerSecond, 500);
  assert.is(timings?.decodeTokensPerSecond, 200);
  assert.equal([s.stops.at(-1), s.released], [3, 1]);
});

test('nothing begins before the first next()', async () => {
  const s = scene([batch('a', 'length')]);
  await new Promise((resolve) => setImmediate(resolve));
  assert.is(s.starts, 0);
  await s.generation.return();
  assert.equal(await drain(s.generation), []);
  assert.is(s.starts, 0);
});

test('a stop string ends it; the token that completes it counts, later ones are rolled back', async () => {
  const s = scene([batch('one, tw'), batch('o three')], { stop: ['two'] });
  const tokens = await drain(s.generation);
  assert.is(tokens.map(({ text }) => text).join(''), 'one, ');
  assert.is(tokens.length, 8);
  assert.is(s.generation.finishReason, 'stop');
  assert.equal(s.stops, [8]);
});

test('text held back for a stop string that does not come is shown at the end, whatever ends it', async () => {
  const eos = await drain(scene([batch('ab'), batch('', 'stop')], { stop: 'bc' }).generation);
  assert.equal(eos, [
    { id: 97, text: 'a' },
    { id: 98, text: '' },
    { id: 2, text: 'b' },
  ]);
  const length = await drain(scene([batch('ab', 'length')], { stop: 'bc' }).generation);
  assert.equal(length, [
    { id: 97, text: 'a' },
    { id: 98, text: 'b' },
  ]);
  const counted = scene([batch('ab'), batch('', 'stop')], { stop: 'bc' });
  assert.equal((await complete(counted.generation)).usage.completionTokens, 2);
});

test('leaving the loop keeps what was handed out', async () => {
  const s = scene([batch('abcdef')]);
  for await (const { text } of s.generation) if (text === 'c') break;
  assert.is(s.stops.at(-1), 3);
  assert.is(s.released, 1);
  assert.is(s.generation.usage?.completionTokens, 3);
});

test('stop() before the start begins no work', async () => {
  const s = scene([batch('a')]);
  s.generation.stop();
  assert.is(await s.generation.text(), '');
  assert.is(s.starts, 0);
  assert.is(s.generation.finishReason, 'stop');
  assert.is(s.generation.usage?.totalTokens, 0);
});

test('stop(), return() and a signal end a start that takes long', async () => {
  const stopped = scene([], {}, never<void>);
  const stopping = stopped.generation.text();
  stopped.generation.stop();
  assert.is(await stopping, '');

  const left = scene([], {}, never<void>);
  const pending = left.generation.next();
  await left.generation.return();
  assert.equal(await pending, { done: true, value: undefined });

  const abort = new AbortController();
  const aborted = failure(scene([], { signal: abort.signal }, never<void>).generation.text());
  abort.abort();
  assert.is((await aborted).code, 'ABORTED');
});

test('stop(), return() and a signal end a step that takes long', async () => {
  const stopped = scene([batch('a')]);
  const stopping = stopped.generation.text();
  await pulled(stopped, 2);
  stopped.generation.stop();
  assert.is(await stopping, 'a');
  assert.is(stopped.stops[0], 1);

  const left = scene([batch('a')]);
  await left.generation.next();
  const pending = left.generation.next();
  await left.generation.return();
  assert.is((await pending).done, true);
  assert.is(left.released, 1);

  const abort = new AbortController();
  const s = scene([batch('ab')], { signal: abort.signal });
  const aborted = failure(s.generation.text());
  await pulled(s, 2);
  abort.abort(new Error('enough'));
  const error = await aborted;
  assert.is(error.code, 'ABORTED');
  assert.is((error.cause as Error).message, 'enough');
  assert.match(error.stack ?? '', /at caller/);
  assert.equal([s.stops[0], s.released], [2, 1]);
});

test('a stop while the work is handed over reaches the engine', async () => {
  let end = (_: Error) => {};
  const stops: number[] = [];
  const native: NativeGeneration = {
    next: () => new Promise((_, reject) => (end = reject)),
    stop: async (delivered) => {
      stops.push(delivered);
      setImmediate(() => end(new Error('stopped')));
    },
    timings: () => ({ promptMs: 0, promptTokens: 0, decodeMs: 0, decodeTokens: 0 }),
  };
  const begin = async (): Promise<Started> => {
    queueMicrotask(() => generation.stop()); // before the iteration has what this gives
    return { native, promptTokens: 1, stream: { push: never, close: async () => '' }, release: async () => {} };
  };
  const generation: Generation = new Generation(begin, checkGenerateOptions({}), 'at caller');
  assert.is(await generation.text(), '');
  assert.is(stops[0], 0);
});

test('a stop while held text is fetched: the token is not handed out, nor kept', async () => {
  const s = scene([batch('a'), batch('b', 'length')]);
  let asked = () => {};
  const closing = new Promise<void>((resolve) => (asked = resolve));
  s.stream.close = async () => {
    asked();
    await new Promise((resolve) => setImmediate(resolve));
    return '';
  };
  const text = s.generation.text();
  await closing;
  s.generation.stop();
  assert.is(await text, 'a');
  assert.equal([...new Set(s.stops)], [1]);
  assert.is(s.generation.usage?.completionTokens, 1);
});

test('a signal that throws frees what was taken all the same', async () => {
  const remove = () => {
    throw new Error('mine');
  };
  const left = scene([batch('a', 'length')], { signal: { aborted: false, addEventListener() {}, removeEventListener: remove } as never });
  await left.generation.text().catch(() => {});
  assert.is(left.released, 1);
  const begun = scene([batch('a')], { signal: { aborted: false, addEventListener: remove, removeEventListener() {} } as never });
  assert.match((await failure(begun.generation.text())).message, /mine/);
  assert.is(begun.starts, 0);
});

test('a signal that has fired begins nothing', async () => {
  const s = scene([batch('a')], { signal: AbortSignal.abort() });
  assert.is((await failure(s.generation.text())).code, 'ABORTED');
  assert.is(s.starts, 0);
});

test('errors of the engine keep their code and get the stack of the caller', async () => {
  const s = scene([batch('a')]);
  await s.generation.next();
  const failing = scene([], {}, () => Promise.reject(Object.assign(new Error('full'), { code: 'CONTEXT_OVERFLOW' })));
  const error = await failure(failing.generation.text());
  assert.is(error.code, 'CONTEXT_OVERFLOW');
  assert.match(error.stack ?? '', /full\nat caller/);
  await s.generation.return();
});

test('stop() after the end does nothing', async () => {
  const s = scene([batch('a', 'length')]);
  await drain(s.generation);
  const before = s.stops.length;
  s.generation.stop();
  await s.generation.return();
  assert.is(s.stops.length, before);
  assert.is(s.generation.finishReason, 'length');
});

test.run();

// Sessions on a scripted engine: one job at a time, and a busy session that becomes free however its job ends.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { NativeSequence } from '../../lib/binding';
import { ChaiError } from '../../lib/errors';
import { Session, type SessionContext } from '../../lib/session';

const never = <Result>() => new Promise<Result>(() => {});

interface Script {
  encode?: () => Promise<Int32Array>;
  evaluate?: () => Promise<Float32Array>;
  availableBytes?: number;
}

function open({ encode, evaluate, availableBytes = 1e9 }: Script = {}) {
  const seen = { generated: 0, closed: 0, evaluated: 0 };
  const native = {
    tokens: () => Int32Array.of(3),
    generate: () => {
      ++seen.generated;
      throw Object.assign(new Error('no room'), { code: 'OUT_OF_MEMORY' });
    },
    evaluate: () => {
      ++seen.evaluated;
      return evaluate?.() ?? Promise.resolve(new Float32Array(0));
    },
    close: async () => void ++seen.closed,
  } as unknown as NativeSequence;
  const channel = { encode: encode ?? (async () => Int32Array.of(1)), open: () => assert.unreachable() };
  const context = { owner: {}, channel, stopTokens: [], contextLength: 64, vocabularySize: 1000, availableBytes: () => availableBytes };
  return { session: new Session(native, context as unknown as SessionContext), seen };
}

async function refused(code: string, work: () => unknown, words = /./): Promise<ChaiError> {
  let caught: unknown;
  try {
    await work();
  } catch (error) {
    caught = error;
  }
  assert.instance(caught, ChaiError, String(caught));
  assert.is((caught as ChaiError).code, code);
  assert.match((caught as ChaiError).message, words);
  return caught as ChaiError;
}

test('a session is free again when its generation did not come to begin', async () => {
  const { session, seen } = open();
  await refused('OUT_OF_MEMORY', () => session.complete('x'), /no room/);
  await session.evaluate([1]);
  assert.equal([seen.generated, seen.evaluated], [1, 1]);
});

test('a session is free again whatever a signal of the caller does', async () => {
  const throws = () => {
    throw new Error('mine');
  };
  const { session } = open();
  for (const [addEventListener, removeEventListener] of [
    [throws, () => {}],
    [() => {}, throws],
  ]) {
    const signal = { aborted: false, addEventListener, removeEventListener } as unknown as AbortSignal;
    await refused('DEVICE_FAULT', () => session.evaluate([1], { signal }), /mine/);
    await session.evaluate([1]);
  }
});

test('prompts and lengths that cannot be read or shown', async () => {
  const { session } = open();
  const { proxy, revoke } = Proxy.revocable([], {});
  revoke();
  for (const prompt of [proxy, [proxy], { messages: proxy }, { messages: [proxy] }, [Object.create(null)]])
    await refused('OPTION_INVALID', () => session.complete(prompt as never));
  for (const length of [proxy, Object.create(null), Symbol('x')]) await refused('OPTION_INVALID', () => session.truncate(length as never));
});

test('aborting while a long prompt is tokenized frees the session at once', async () => {
  const { session, seen } = open({ encode: never });
  const abort = new AbortController();
  const aborted = refused('ABORTED', () => session.complete('x', { signal: abort.signal }));
  await new Promise((resolve) => setImmediate(resolve));
  await refused('SESSION_BUSY', () => session.evaluate([1]));
  abort.abort();
  await aborted;
  await session.evaluate([1]);
  assert.is(seen.generated, 0);
});

test('a session made for one generation is closed when that does not come to begin', async () => {
  for (const encode of [() => Promise.reject(new Error('tokenizer')), async () => Int32Array.of(1)]) {
    const { session, seen } = open({ encode });
    await Session.generateOnce(() => session, 'x', {}, '')
      .text()
      .catch(() => {});
    assert.is(seen.closed, 1);
  }
});

test('text gets special tokens at the beginning of a session only, and streams after what came before', async () => {
  const asked: boolean[] = [];
  const contexts: number[][] = [];
  const held: number[] = [];
  const native = {
    tokens: () => Int32Array.from(held),
    generate: (ids: Int32Array) => {
      held.push(...ids, 99); // an engine that has a token ready at once
      return {
        next: async () => ({ ids: new Int32Array(0), logprobs: new Float32Array(0), finish: 'stop' }),
        stop: async () => {},
        timings: () => ({ promptMs: 0, promptTokens: 0, decodeMs: 0, decodeTokens: 0 }),
      };
    },
    close: async () => {},
  } as unknown as NativeSequence;
  const channel = {
    encode: async (_: string, special: boolean) => {
      asked.push(special);
      return Int32Array.of(1, 2);
    },
    open: (context: number[]) => {
      contexts.push(context);
      return { push: async () => [], close: async () => '' };
    },
  };
  const context = { owner: {}, channel, stopTokens: [], contextLength: 64, vocabularySize: 1000, availableBytes: () => 1e9 };
  const session = new Session(native, context as unknown as SessionContext);
  for (let turn = 0; turn < 4; ++turn) await session.complete('x');
  assert.equal(asked, [true, false, false, false]);
  assert.equal(contexts, [
    [1, 2],
    [1, 2, 99, 1, 2],
    [1, 2, 99, 1, 2, 99, 1, 2],
    [1, 2, 99, 1, 2, 99, 1, 2],
  ]);
});

test('logits that memory cannot hold are refused before they are computed', async () => {
  const { session, seen } = open({ availableBytes: 100e6 });
  // 30,000 tokens x 1000 logits x 4 bytes
  await refused('OUT_OF_MEMORY', () => session.evaluate(new Int32Array(30000), { logits: 'all' }), /120000000 bytes.*100000000.*fewer/);
  assert.is(seen.evaluated, 0);
  await session.evaluate(new Int32Array(30000));
  await session.evaluate(new Int32Array(20000), { logits: 'all' });
  assert.is(seen.evaluated, 2);
});

test('errors show the line of the caller', async () => {
  const { session } = open({ evaluate: () => Promise.reject(Object.assign(new Error('broken'), { code: 'DEVICE_FAULT' })) });
  async function callingFunction() {
    await session.evaluate([1]);
  }
  const error = await refused('DEVICE_FAULT', callingFunction, /broken/);
  assert.match(error.stack?.split('\n')[1] ?? '', /callingFunction.*session\.test/);
  async function completingFunction() {
    await session.complete('x');
  }
  const other = await refused('OUT_OF_MEMORY', completingFunction);
  assert.match(other.stack?.split('\n')[1] ?? '', /completingFunction.*session\.test/);
});

test('closed: every call says so, closing twice is one closing', async () => {
  const { session, seen } = open();
  await Promise.all([session.close(), session.close(), session[Symbol.asyncDispose]()]);
  assert.is(seen.closed, 1);
  for (const work of [
    () => session.evaluate([1]),
    () => session.score([1]),
    () => session.complete('x'),
    () => session.truncate(0),
    () => session.fork(),
  ])
    await refused('CLOSED', work, /session is closed/);
});

test.run();

// Options: defaults, and refusals that name the option, what is allowed and what was given.
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ChaiError, toChaiError } from '../../lib/errors';
import {
  checkDecodeOptions,
  checkEncodeOptions,
  checkEvaluateOptions,
  checkGenerateOptions,
  checkIds,
  checkLoadOptions,
  checkSessionOptions,
  checkTemplateOptions,
} from '../../lib/options';

function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    assert.instance(error, ChaiError);
    assert.is((error as ChaiError).code, 'OPTION_INVALID');
    return (error as ChaiError).message;
  }
  return assert.unreachable('expected OPTION_INVALID') as never;
}

test('what is left out is the default', () => {
  const load = { device: 'auto', attention: 'auto', cacheType: 'auto', maxBatch: 16, threads: 0, mmap: false };
  assert.equal(checkLoadOptions(undefined), load);
  assert.equal(checkLoadOptions(null), load);
  assert.equal({ ...checkLoadOptions({ contextLength: undefined, signal: undefined }) }.contextLength, undefined);
  const { seed, ...rest } = checkGenerateOptions({});
  assert.ok(Number.isSafeInteger(seed) && seed >= 0);
  const off = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, ignoreEos: false, logprobs: false };
  assert.equal(rest, { ...off, stop: [] });
  assert.equal(checkGenerateOptions({ stop: 'x', seed: 0 }).stop, ['x']);
  assert.is(checkGenerateOptions({ seed: 0 }).seed, 0);
  assert.equal(checkEvaluateOptions({}).logits, 'last');
  assert.equal(checkEncodeOptions(null), { addSpecialTokens: true });
  assert.equal(checkDecodeOptions({}), { skipSpecialTokens: true });
  assert.equal(checkTemplateOptions({ variables: { tools: [] } }), { addGenerationPrompt: true, variables: { tools: [] } });
});

test('messages name the option, what is allowed and what was given', () => {
  const cases: [() => unknown, RegExp][] = [
    [() => checkLoadOptions({ contextLength: 0 }), /contextLength.*whole number from 1 to 268435456.*0 was given/],
    [() => checkLoadOptions({ contextLength: 1.5 }), /contextLength.*whole number.*1\.5/],
    [() => checkLoadOptions({ maxBatch: 5000 }), /maxBatch.*4096.*5000/],
    [() => checkLoadOptions({ threads: Number.NaN }), /threads.*NaN/],
    [() => checkLoadOptions({ device: 'gpu' }), /device.*"cuda:N".*"gpu"/],
    [() => checkLoadOptions({ device: 7 }), /device.*7/],
    [() => checkLoadOptions({ cacheType: 'int8' }), /cacheType.*"float16".*"int8"/],
    [() => checkLoadOptions({ attention: 3 }), /attention.*"chai-static".*3/],
    [() => checkLoadOptions({ mmap: 'yes' }), /mmap.*true or false.*"yes"/],
    [() => checkLoadOptions({ signal: {} }), /signal.*AbortSignal/],
    [() => checkLoadOptions({ contextLenght: 10 }), /no option contextLenght.*contextLength/],
    [() => checkLoadOptions(5), /options must be an object.*5/],
    [() => checkGenerateOptions({ temperature: Number.POSITIVE_INFINITY }), /temperature.*0 to 100.*Infinity/],
    [() => checkGenerateOptions({ topP: '0.9' }), /topP.*"0\.9"/],
    [() => checkGenerateOptions({ repetitionPenalty: 0 }), /repetitionPenalty/],
    [() => checkGenerateOptions({ seed: 2 ** 60 }), /seed/],
    [() => checkGenerateOptions({ stop: ['a', ''] }), /stop.*1 to 1000 characters/],
    [() => checkGenerateOptions({ stop: 'x'.repeat(1001) }), /stop/],
    [() => checkSessionOptions({ attention: null, plan: 1 }), /attention|plan/],
    [() => checkEvaluateOptions({ logits: 'first' }), /logits.*"last".*"first"/],
    [() => checkEncodeOptions({ addSpecialTokens: 'no' }), /addSpecialTokens.*"no"/],
    [() => checkDecodeOptions({ skipSpecial: true }), /no option skipSpecial.*skipSpecialTokens/],
    [() => checkTemplateOptions({ variables: 1 }), /variables/],
  ];
  for (const [work, words] of cases) assert.match(refusal(work), words);
});

test('a signal is known by its shape, so that other realms and polyfills work', () => {
  const signal = { aborted: false, addEventListener() {}, removeEventListener() {} };
  assert.is(checkLoadOptions({ signal }).signal, signal as never);
});

test('a signal that could not be let go of again is none', () => {
  const signal = { aborted: false, addEventListener() {} };
  for (const check of [checkLoadOptions, checkGenerateOptions, checkEvaluateOptions])
    assert.match(
      refusal(() => check({ signal })),
      /signal.*AbortSignal/,
    );
});

const bare = Object.create(null);
const mine = () => {
  throw new Error('mine');
};
const throwing = new Proxy({}, { get: mine, has: mine, ownKeys: mine });
const revoked = () => {
  const { proxy, revoke } = Proxy.revocable([], {});
  revoke();
  return proxy;
};

test('values that cannot be shown, and objects that throw when they are read', () => {
  for (const value of [bare, throwing, revoked(), { toString: () => throwing }, Symbol('x'), () => {}, 1n]) {
    assert.match(
      refusal(() => checkGenerateOptions({ maxTokens: value })),
      /^generate: /,
    );
    assert.match(
      refusal(() => checkLoadOptions({ onProgress: Object(value) === value && typeof value === 'function' ? 1 : value })),
      /^loadModel: /,
    );
    assert.match(
      refusal(() => checkIds([value], 'score')),
      /^score: /,
    );
  }
  for (const check of [checkLoadOptions, checkGenerateOptions, checkEvaluateOptions, checkEncodeOptions, checkTemplateOptions])
    for (const options of [throwing, revoked()])
      assert.match(
        refusal(() => check(options)),
        /cannot be read/,
      );
  assert.match(
    refusal(() => checkIds(revoked(), 'score')),
    /^score: .*cannot be read/,
  );
});

test('anything thrown becomes a ChaiError', () => {
  for (const thrown of [bare, throwing, revoked(), undefined, null, Symbol('x'), 1n, { message: 7 }]) {
    const error = toChaiError(thrown, 'at caller');
    assert.instance(error, ChaiError);
    assert.is(error.code, 'DEVICE_FAULT');
  }
});

test('anything as options is checked options or OPTION_INVALID', () => {
  const value = fc.oneof(fc.anything(), fc.constantFrom(0, 1, 'auto', true, [], ['a']));
  const names = [
    'device',
    'contextLength',
    'cacheTokens',
    'maxTokens',
    'topK',
    'stop',
    'seed',
    'signal',
    'attention',
    'logits',
    '__proto__',
  ];
  const options = fc.oneof(fc.anything(), fc.dictionary(fc.constantFrom(...names), value));
  const checks = [
    checkLoadOptions,
    checkGenerateOptions,
    checkSessionOptions,
    checkEvaluateOptions,
    checkEncodeOptions,
    checkTemplateOptions,
  ];
  fc.assert(
    fc.property(options, fc.constantFrom(...checks), (given, check) => {
      try {
        check(given);
      } catch (error) {
        assert.instance(error, ChaiError, String((error as Error)?.stack));
      }
    }),
    { numRuns: 3000 },
  );
});

test('token ids', () => {
  assert.equal(checkIds([1, 2], 'x'), Int32Array.of(1, 2));
  assert.equal(checkIds(Uint32Array.of(7), 'x'), Int32Array.of(7));
  for (const bad of [[1.5], [-1], ['1'], [2 ** 31], [null], Uint32Array.of(2 ** 31), 'abc', { length: 1 }, undefined, new Array(3)])
    assert.match(
      refusal(() => checkIds(bad, 'score')),
      /^score: /,
    );
});

test.run();

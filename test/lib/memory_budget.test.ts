// Context and cache sizes for the memory that is there, in numbers worked out by hand.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { NativeConfig, NativeTensor } from '../../lib/binding';
import { ChaiError } from '../../lib/errors';
import { cacheBytesPerToken, planCache, weightBytes } from '../../lib/memory_budget';

const wishes = { contextLength: 4096, contextIsFixed: false, maxBatch: 16 };

function refusal(work: () => unknown): ChaiError {
  try {
    work();
  } catch (error) {
    assert.instance(error, ChaiError);
    return error as ChaiError;
  }
  return assert.unreachable('expected an error') as never;
}

test('bytes of a token and of the weights', () => {
  const config = { layers: 4, keyValueHeads: 2, headDim: 16 } as NativeConfig;
  assert.is(cacheBytesPerToken(config, 'float32'), 4 * 2 * 16 * 2 * 4);
  assert.is(cacheBytesPerToken(config, 'bfloat16'), 4 * 2 * 16 * 2 * 2);
  const matrix: NativeTensor = { file: 0, offset: 8, type: 'float16', rows: 10, columns: 3 };
  assert.is(weightBytes([matrix, { ...matrix }, { ...matrix, offset: 68, type: 'float32' }]), 60 + 120);
});

test('with plenty of memory: the whole context for every sequence of a step, at most sixteen', () => {
  assert.equal(planCache(wishes, 1000, 1e6, 1e12), { contextLength: 4096, cacheTokens: 16 * 4096 });
  assert.equal(planCache({ ...wishes, maxBatch: 64 }, 1000, 1e6, 1e12).cacheTokens, 16 * 4096);
  assert.equal(planCache({ ...wishes, maxBatch: 2 }, 1000, 1e6, 1e12).cacheTokens, 2 * 4096);
  assert.equal(planCache({ ...wishes, contextLength: 100 }, 1000, 0, 1e12).cacheTokens, 16 * 128, 'whole pages of 64 tokens');
  assert.equal(planCache({ ...wishes, cacheTokens: 77 }, 1000, 0, 1e12), { contextLength: 4096, cacheTokens: 77 });
});

test('with less: fewer sessions, then a shorter context', () => {
  // 90 % of 11.1 MB less 1 MB of weights: 8.99 MB, 8990 tokens of 1000 bytes, 140 pages.
  assert.equal(planCache(wishes, 1000, 1e6, 11.1e6), { contextLength: 4096, cacheTokens: 8960 });
  assert.equal(planCache(wishes, 1000, 1e6, 3.5e6), { contextLength: 2112, cacheTokens: 2112 });
});

test('what cannot be had is OUT_OF_MEMORY with need, what is there, and the option to change', () => {
  const fixed = refusal(() => planCache({ ...wishes, contextIsFixed: true }, 1e6, 1e9, 3e9));
  assert.is(fixed.code, 'OUT_OF_MEMORY');
  assert.match(fixed.message, /1\.00 GB.*4096 tokens 4\.10 GB.*3\.00 GB are available.*lower contextLength/);
  assert.match(refusal(() => planCache({ ...wishes, cacheTokens: 8192 }, 1e6, 0, 3e9)).message, /8192 tokens 8\.19 GB.*lower cacheTokens/);
  assert.match(refusal(() => planCache(wishes, 1e6, 3e9, 3e9)).message, /512 tokens/);
  assert.is(refusal(() => planCache(wishes, 1000, 0, 0)).code, 'OUT_OF_MEMORY');
});

test.run();

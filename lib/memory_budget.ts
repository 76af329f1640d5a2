// Decides context and cache size from what memory is there. In: the model's shape, wishes, available bytes. Out: numbers, or OUT_OF_MEMORY.
import type { ElementType, NativeConfig, NativeTensor } from './binding';
import { ChaiError } from './errors';

export const elementSize: Record<ElementType, number> = { float32: 4, float16: 2, bfloat16: 2 };

/** Bytes of keys and values one token takes at full head count, all layers. */
export function cacheBytesPerToken(config: NativeConfig, type: ElementType): number {
  return 2 * config.layers * config.keyValueHeads * config.headDim * elementSize[type];
}

/** Bytes of all weights, tied ones once. */
export function weightBytes(tensors: Iterable<NativeTensor>): number {
  const positions = new Map<string, number>();
  for (const { file, offset, rows, columns, type } of tensors) positions.set(`${file}:${offset}`, rows * columns * elementSize[type]);
  return [...positions.values()].reduce((sum, bytes) => sum + bytes, 0);
}

export interface CacheWishes {
  contextLength: number;
  /** The caller named the context length: it is not to be lowered. */
  contextIsFixed: boolean;
  cacheTokens?: number | undefined;
  maxBatch: number;
}

const blockTokens = 64; // the cache is kept in pages of this many tokens
const leastContext = 512;

/** Cache tokens (and, unless fixed, a context length) that fit beside the weights in 90 % of the available bytes. */
export function planCache(
  wishes: CacheWishes,
  bytesPerToken: number,
  weights: number,
  available: number,
): { contextLength: number; cacheTokens: number } {
  const room = Math.max(0, available * 0.9 - weights);
  const affordable = Math.floor(room / bytesPerToken / blockTokens) * blockTokens;
  const oneContext = (length: number) => Math.ceil(length / blockTokens) * blockTokens;
  const { contextLength, cacheTokens, contextIsFixed, maxBatch } = wishes;
  if (cacheTokens !== undefined) {
    if (cacheTokens > affordable) throw tooMuch(cacheTokens, 'cacheTokens', bytesPerToken, weights, available);
    return { contextLength, cacheTokens };
  }
  if (oneContext(contextLength) <= affordable)
    return { contextLength, cacheTokens: Math.min(affordable, oneContext(contextLength) * Math.min(maxBatch, 16)) };
  if (contextIsFixed || affordable < Math.min(leastContext, contextLength))
    throw tooMuch(
      oneContext(Math.min(contextLength, contextIsFixed ? contextLength : leastContext)),
      'contextLength',
      bytesPerToken,
      weights,
      available,
    );
  return { contextLength: affordable, cacheTokens: affordable };
}

function tooMuch(tokens: number, option: string, bytesPerToken: number, weights: number, available: number): ChaiError {
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
  return new ChaiError(
    'OUT_OF_MEMORY',
    `the weights need ${gigabytes(weights)} and a K/V cache of ${tokens} tokens ${gigabytes(tokens * bytesPerToken)}, but ${gigabytes(available)} are available; ` +
      `lower ${option}, choose a smaller cacheType, or close other models`,
  );
}

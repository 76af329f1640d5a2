// The fixture models and their reference numbers. In: names. Out: parsed references, and measures of error.
import fs from 'node:fs';
import path from 'node:path';
import type { HeadPlan } from 'chai-llm';

export const root = path.join(__dirname, '..', '..');
export const fixtures = path.join(root, 'test', 'fixtures');
export const modelPath = (name: string) => (name === 'starter' ? path.join(root, 'models', 'starter') : path.join(fixtures, name));

export const models = [
  'llama-mha',
  'llama-gqa-tied-bf16',
  'llama3-rope',
  'llama-linear-rope',
  'mistral-window',
  'llama-sharded-f16',
  'llama-odd',
  'llama-many-heads',
  'opt-pre',
  'opt-post',
];

export interface Reference {
  prompt: number[];
  vocabulary: number;
  greedy: number[];
  margins: number[];
  logits: Float32Array;
}

export interface ClusteredCase {
  model: string;
  plan: HeadPlan & { method: 'chai' | 'chai-static' | 'explicit' };
  prompt: number[];
  vocabulary: number;
  memberships: { clusterOf: number[]; representatives: number[]; margin: number }[];
  logits: Float32Array;
}

export function readFloats(file: string): Float32Array {
  const bytes = fs.readFileSync(file);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

export function readReference(model: string): Reference {
  const folder = path.join(fixtures, model);
  return {
    ...JSON.parse(fs.readFileSync(path.join(folder, 'reference.json'), 'utf8')),
    logits: readFloats(path.join(folder, 'reference.bin')),
  };
}

export function clusteredCases(): [string, ClusteredCase][] {
  const folder = path.join(fixtures, 'clustered');
  return fs
    .readdirSync(folder)
    .filter((file) => file.endsWith('.json'))
    .map((file) => {
      const name = file.slice(0, -5);
      return [
        name,
        { ...JSON.parse(fs.readFileSync(path.join(folder, file), 'utf8')), logits: readFloats(path.join(folder, `${name}.bin`)) },
      ];
    });
}

/** |a - b| / |b|; infinite when a number is missing or not finite. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; ++i) {
    difference += ((actual[i] ?? Number.NaN) - (expected[i] ?? Number.NaN)) ** 2;
    norm += (expected[i] ?? 0) ** 2;
  }
  const error = Math.sqrt(difference / norm);
  return Number.isFinite(error) ? error : Number.POSITIVE_INFINITY;
}

export const largestDifference = (actual: ArrayLike<number>, expected: ArrayLike<number>) =>
  Array.from(expected).reduce((most, value, i) => Math.max(most, Math.abs(value - (actual[i] ?? Number.NaN))), 0);

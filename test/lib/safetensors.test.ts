// The safetensors header parser against hostile input: a typed error or a proven table, never anything else.
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ChaiError } from '../../lib/errors';
import { parseSafetensorsHeader, readSafetensorsHeader } from '../../lib/safetensors';

const dataStart = 100;
const fileSize = 1000;
const parse = (header: unknown) =>
  parseSafetensorsHeader(typeof header === 'string' ? header : JSON.stringify(header), dataStart, fileSize, 'x.safetensors');
const entry = (fields: object) => parse({ a: { dtype: 'F32', shape: [2, 3], data_offsets: [0, 24], ...fields } });

function invalid(work: () => unknown, words: RegExp): void {
  try {
    work();
  } catch (error) {
    assert.instance(error, ChaiError);
    assert.is((error as ChaiError).code, 'MODEL_INVALID');
    assert.match((error as Error).message, words);
    return;
  }
  assert.unreachable('expected MODEL_INVALID');
}

test('a sound header gives positions in the file', () => {
  const tensors = parse({
    __metadata__: { format: 'pt' },
    a: { dtype: 'F16', shape: [2, 3], data_offsets: [4, 16] },
    b: { dtype: 'F32', shape: [], data_offsets: [0, 4] },
  });
  assert.equal(tensors.get('a'), { name: 'a', dtype: 'F16', shape: [2, 3], offset: 104, bytes: 12 });
  assert.is(tensors.size, 2);
});

test('lies about lengths, shapes and types are refused', () => {
  invalid(() => entry({ data_offsets: [0, 4000] }), /truncated/);
  invalid(() => entry({ data_offsets: [24, 0] }), /truncated|bytes/);
  invalid(() => entry({ data_offsets: [0, 20] }), /needs 24/);
  invalid(() => entry({ data_offsets: [0] }), /two whole numbers/);
  invalid(() => entry({ data_offsets: [0, Number.NaN] }), /two whole numbers/);
  invalid(() => entry({ data_offsets: [-8, 16] }), /two whole numbers/);
  invalid(() => entry({ shape: [2 ** 63, 2] }), /whole numbers/);
  invalid(() => entry({ shape: [2 ** 40, 2 ** 40] }), /overflow/);
  invalid(() => entry({ shape: [2, -3] }), /whole numbers/);
  invalid(() => entry({ shape: [2, 1.5] }), /whole numbers/);
  invalid(() => entry({ shape: '6' }), /whole numbers/);
  invalid(() => entry({ dtype: 'F5' }), /dtype/);
  invalid(() => entry({ dtype: 'constructor' }), /dtype/);
  invalid(() => entry({ dtype: 7 }), /dtype/);
  invalid(() => parse({ a: null }), /not an object/);
  invalid(() => parse([]), /JSON object/);
  invalid(() => parse('{"a": '), /not valid JSON/);
});

test('types of fewer bits than a byte are known by size', () => {
  assert.is(entry({ dtype: 'F4', shape: [2, 24] }).get('a')?.bytes, 24);
  assert.is(entry({ dtype: 'F6_E2M3', shape: [32] }).get('a')?.bytes, 24);
  invalid(() => entry({ dtype: 'F4', shape: [47] }), /needs 23.5/);
});

test('of a name that comes twice the last entry counts, as in JSON', () => {
  const entryOf = (size: number) => `"a": {"dtype": "F32", "shape": [${size}], "data_offsets": [0, ${size * 4}]}`;
  assert.equal(parse(`{${entryOf(3)}, ${entryOf(5)}}`).get('a')?.shape, [5]);
});

test('overlapping tensors are refused', () => {
  invalid(
    () => parse({ a: { dtype: 'F32', shape: [4], data_offsets: [0, 16] }, b: { dtype: 'F32', shape: [4], data_offsets: [12, 28] } }),
    /overlap/,
  );
});

const json = fc.jsonValue();
const tensor = fc.record({
  dtype: fc.oneof(fc.constantFrom('F32', 'F16', 'BF16', 'I8', 'nonsense'), json),
  shape: fc.oneof(fc.array(fc.oneof(fc.integer({ min: -3, max: 40 }), fc.double())), json),
  data_offsets: fc.oneof(fc.tuple(fc.integer({ min: -10, max: 1200 }), fc.integer({ min: -10, max: 1200 })), json),
});

test('any header is refused with MODEL_INVALID or lies within the file', () => {
  fc.assert(
    fc.property(fc.oneof(fc.dictionary(fc.string(), tensor), json), (header) => {
      try {
        for (const { offset, bytes, shape } of parse(header as object).values()) {
          assert.ok(offset >= dataStart && offset + bytes <= fileSize);
          assert.ok(shape.every((size) => Number.isSafeInteger(size) && size >= 0));
        }
      } catch (error) {
        if (!(error instanceof ChaiError)) throw error;
        assert.is(error.code, 'MODEL_INVALID');
      }
    }),
    { numRuns: 3000 },
  );
});

test('any bytes as a file are refused with a typed error or read', async () => {
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'chai-llm-'));
  const file = path.join(folder, 'model.safetensors');
  const sound = Buffer.concat([
    Buffer.alloc(8),
    Buffer.from(JSON.stringify({ a: { dtype: 'F32', shape: [2], data_offsets: [0, 8] } })),
    Buffer.alloc(8),
  ]);
  sound.writeBigUInt64LE(BigInt(sound.length - 16));
  const mutated = fc.array(fc.tuple(fc.nat(sound.length - 1), fc.nat(255)), { maxLength: 4 }).map((changes) => {
    const bytes = Buffer.from(sound);
    for (const [at, value] of changes) bytes.writeUInt8(value, at);
    return bytes;
  });
  const cut = fc.nat(sound.length).map((length) => sound.subarray(0, length));
  await fc.assert(
    fc.asyncProperty(fc.oneof(mutated, cut, fc.uint8Array({ maxLength: 64 })), async (bytes) => {
      await fs.writeFile(file, bytes);
      await readSafetensorsHeader(file).catch((error) => assert.instance(error, ChaiError));
    }),
    { numRuns: 400 },
  );
  await fs.rm(folder, { recursive: true });
});

test('a missing file is MODEL_NOT_FOUND', async () => {
  const error = await readSafetensorsHeader('/nowhere/model.safetensors').catch((caught) => caught);
  assert.is(error.code, 'MODEL_NOT_FOUND');
});

test.run();

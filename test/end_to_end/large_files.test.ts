// Large files of a model directory are parsed on a thread: the same model, the same refusals, and the event loop goes on turning.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { ChaiError, inspectModel, loadModel } from 'chai-llm';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { modelPath, readReference } from './fixtures';

/** A copy of a fixture in a folder of its own, for the time of `use`. */
async function inCopy(name: string, use: (folder: string) => Promise<void>): Promise<void> {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-large-'));
  try {
    fs.cpSync(modelPath(name), folder, { recursive: true });
    await use(folder);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

/** Rewrites the header of a safetensors file, data unchanged. */
function editHeader(file: string, edit: (header: Record<string, unknown>) => void): void {
  const bytes = fs.readFileSync(file);
  const length = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length));
  edit(header);
  const text = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  fs.writeFileSync(file, Buffer.concat([prefix, text, bytes.subarray(8 + length)]));
}

/** Empty tensors with long names: they take no data, only header. */
function addEmptyTensors(header: Record<string, unknown>, count: number): void {
  for (let i = 0; i < count; ++i) header[`extra.${i}.${'x'.repeat(60)}\n`] = { dtype: 'F32', shape: [0], data_offsets: [0, 0] };
}

function editJson(file: string, edit: (object: Record<string, unknown>) => void): void {
  const object = JSON.parse(fs.readFileSync(file, 'utf8'));
  edit(object);
  fs.writeFileSync(file, JSON.stringify(object));
}

const padding = (object: Record<string, unknown>) => {
  object.padding = Array.from({ length: 40_000 }, (_, i) => `entry ${i}`);
};

test('a header of several hundred kilobytes and padded small files give the same logits', () =>
  inCopy('llama-mha', async (folder) => {
    editHeader(path.join(folder, 'model.safetensors'), (header) => addEmptyTensors(header, 5000));
    editJson(path.join(folder, 'config.json'), padding);
    editJson(path.join(folder, 'tokenizer_config.json'), padding);
    const { prompt } = readReference('llama-mha');
    const rows: Float32Array[] = [];
    for (const directory of [modelPath('llama-mha'), folder]) {
      const model = await loadModel(directory, { cacheType: 'float32', attention: 'dense' });
      const session = await model.createSession();
      rows.push(await session.evaluate(prompt, { logits: 'all' }));
      await model.close();
    }
    assert.ok(rows[0]!.length > 0);
    assert.equal(rows[1], rows[0]);
  }));

test('an index of several hundred kilobytes finds the same shards', () =>
  inCopy('llama-sharded-f16', async (folder) => {
    editJson(path.join(folder, 'model.safetensors.index.json'), (index) => {
      const map = index.weight_map as Record<string, string>;
      const [shard] = Object.values(map);
      for (let i = 0; i < 8000; ++i) map[`not.used.${i}`] = shard!;
    });
    const names = async (directory: string) => (await inspectModel(directory)).files.map((file) => path.basename(file));
    assert.equal(await names(folder), await names(modelPath('llama-sharded-f16')));
  }));

test('a large broken header is refused like a small one, naming the tensor', () =>
  inCopy('llama-mha', async (folder) => {
    editHeader(path.join(folder, 'model.safetensors'), (header) => {
      addEmptyTensors(header, 5000);
      header.bad = { dtype: 'F32', shape: [2 ** 40], data_offsets: [0, 2 ** 42] };
    });
    const error = await inspectModel(folder).catch((caught) => caught);
    assert.instance(error, ChaiError);
    assert.is(error.code, 'MODEL_INVALID');
    assert.match(error.message, /"bad"/);
  }));

test('a large file that is no JSON is refused with its name', () =>
  inCopy('llama-mha', async (folder) => {
    fs.appendFileSync(path.join(folder, 'config.json'), `${' '.repeat(300_000)}!`);
    const error = await inspectModel(folder).catch((caught) => caught);
    assert.instance(error, ChaiError);
    assert.is(error.code, 'MODEL_INVALID');
    assert.match(error.message, /config\.json is not valid JSON/);
  }));

test('the event loop turns while a header of 20 MB is parsed', () =>
  inCopy('llama-mha', async (folder) => {
    editHeader(path.join(folder, 'model.safetensors'), (header) => addEmptyTensors(header, 150_000));
    let turns = 0;
    const timer = setInterval(() => ++turns, 1);
    await inspectModel(folder);
    clearInterval(timer);
    assert.ok(turns > 20, `${turns} turns`); // parsed on the event loop, there would be a handful
  }));

test.run();

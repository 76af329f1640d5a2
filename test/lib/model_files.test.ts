// Model directories: what is found, and typed errors for what is missing, broken or meant to harm.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ChaiError } from '../../lib/errors';
import { findModelFiles } from '../../lib/model_files';

type Content = string | Buffer | object;

/** One float32 tensor of `rows` numbers. */
function shard(name: string, rows = 2): Buffer {
  const header = Buffer.from(JSON.stringify({ [name]: { dtype: 'F32', shape: [rows], data_offsets: [0, rows * 4] } }));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, Buffer.alloc(rows * 4)]);
}

const sound: Record<string, Content> = { 'config.json': { model_type: 'llama' }, 'tokenizer.json': '{}', 'model.safetensors': shard('a') };
const index = 'model.safetensors.index.json';
const sharded = (weight_map: unknown): Record<string, Content> => ({
  'config.json': {},
  'tokenizer.json': '{}',
  [index]: { weight_map },
  'one.safetensors': shard('a'),
  'two.safetensors': shard('b', 3),
});

async function inFolder<Result>(files: Record<string, Content>, work: (folder: string) => Promise<Result>): Promise<Result> {
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'chai-llm-'));
  try {
    for (const [name, content] of Object.entries(files))
      await fs.writeFile(
        path.join(folder, name),
        typeof content === 'string' || Buffer.isBuffer(content) ? content : JSON.stringify(content),
      );
    return await work(folder);
  } finally {
    await fs.rm(folder, { recursive: true });
  }
}

async function refused(code: string, work: Promise<unknown>, words: RegExp): Promise<void> {
  const error = await work.then(
    () => undefined,
    (caught) => caught,
  );
  assert.instance(error, ChaiError, String(error?.stack));
  assert.is(error.code, code, error.message);
  assert.match(error.message, words);
}

const refusedFiles = (code: string, files: Record<string, Content>, words: RegExp) =>
  inFolder(files, (folder) => refused(code, findModelFiles(folder), words));

test('a single file, and what lies beside it', () =>
  inFolder(
    { ...sound, 'generation_config.json': { eos_token_id: 1 }, 'chat_template.jinja': 'x', 'head-plan.json': '{}' },
    async (folder) => {
      const files = await findModelFiles(folder);
      assert.equal(files.weightFiles, [path.join(folder, 'model.safetensors')]);
      assert.equal(files.config, { model_type: 'llama' });
      assert.equal(files.generationConfig, { eos_token_id: 1 });
      assert.equal(files.tokenizerConfig, {});
      assert.is(files.chatTemplateFile, 'x');
      assert.is(files.headPlan, path.join(folder, 'head-plan.json'));
      assert.is(files.tensors.get('a')?.file, 0);
    },
  ));

test('shards through their index', () =>
  inFolder(sharded({ b: 'two.safetensors', a: 'one.safetensors' }), async (folder) => {
    const { tensors, weightFiles } = await findModelFiles(folder);
    assert.equal(
      weightFiles.map((file) => path.basename(file)),
      ['one.safetensors', 'two.safetensors'],
    );
    assert.equal([tensors.get('a')?.file, tensors.get('b')?.file], [0, 1]);
  }));

test('missing files are named', async () => {
  await refused('MODEL_NOT_FOUND', findModelFiles('/nowhere/at/all'), /nowhere/);
  await refused('MODEL_NOT_FOUND', findModelFiles(__filename), /not a directory/);
  for (const name of Object.keys(sound)) {
    const { [name]: _, ...rest } = sound;
    await refusedFiles('MODEL_NOT_FOUND', rest, new RegExp(name.replace('.', '\\.')));
  }
  await refusedFiles('MODEL_NOT_FOUND', sharded({ a: 'one.safetensors', c: 'three.safetensors' }), /three\.safetensors.*download/);
});

test('an index never leads out of its directory', async () => {
  const names = [
    '../one.safetensors',
    '/etc/passwd',
    'a/one.safetensors',
    'a\\one.safetensors',
    '..\\x.safetensors',
    '..safetensors',
    'x\0.safetensors',
    'one.bin',
    '',
    7,
    null,
    {},
  ];
  for (const name of names) await refusedFiles('MODEL_INVALID', sharded({ a: name }), /weight_map names/);
});

test('an index that is none', async () => {
  for (const map of [{}, [], 'a', null, undefined]) await refusedFiles('MODEL_INVALID', sharded(map), /weight_map/);
  await refusedFiles('MODEL_INVALID', { ...sharded({}), [index]: '{"weight_map"' }, /not valid JSON/);
});

test('a tensor in two shards is refused', () =>
  refusedFiles(
    'MODEL_INVALID',
    { ...sharded({ a: 'one.safetensors', b: 'two.safetensors' }), 'two.safetensors': shard('a') },
    /"a".*one.*two/,
  ));

test('broken and oversized small files', async () => {
  for (const name of ['config.json', 'generation_config.json', 'tokenizer_config.json']) {
    await refusedFiles('MODEL_INVALID', { ...sound, [name]: '{"a": NaN}' }, /not valid JSON/);
    await refusedFiles('MODEL_INVALID', { ...sound, [name]: '[]' }, /JSON object/);
    await refusedFiles('MODEL_INVALID', { ...sound, [name]: Buffer.alloc(10 * 1024 * 1024 + 1, 32) }, /10485761 bytes/);
  }
  await refusedFiles('MODEL_INVALID', { ...sound, 'chat_template.jinja': Buffer.alloc(11e6) }, /11000000 bytes/);
});

test('folders and pipes in place of files are refused, not waited for', async () => {
  if (process.platform === 'win32') return;
  for (const name of ['config.json', 'tokenizer.json', 'model.safetensors', 'generation_config.json', 'chat_template.jinja'])
    for (const make of [(file: string) => fs.mkdir(file), async (file: string) => void execFileSync('mkfifo', [file])]) {
      const { [name]: _, ...rest } = sound;
      await inFolder(rest, async (folder) => {
        await make(path.join(folder, name));
        await refused('MODEL_INVALID', findModelFiles(folder), /not a regular file/);
      });
    }
});

test('any mutation of a sound directory is read or refused with a typed error', async () => {
  const names = ['config.json', 'tokenizer.json', index, 'one.safetensors', 'generation_config.json'];
  const content = fc.oneof(
    fc.jsonValue().map((value) => Buffer.from(JSON.stringify({ weight_map: value }))),
    fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
    fc.json().map((text) => Buffer.from(text)),
  );
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...names), content, (name, bytes) =>
      inFolder({ ...sharded({ a: 'one.safetensors', b: 'two.safetensors' }), [name]: bytes }, (folder) =>
        findModelFiles(folder).then(
          () => {},
          (error) => assert.instance(error, ChaiError, String(error?.stack)),
        ),
      ),
    ),
    { numRuns: 300 },
  );
});

test.run();

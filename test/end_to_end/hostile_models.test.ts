// Property runs over every file a model directory is read from: whatever is changed in them, loading and generating give text or a
// ChaiError, never anything else, and the process goes on.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { ChaiError, loadModel } from 'chai-llm';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { modelPath } from './fixtures';

const runs = Number(process.env.CHAI_PROPERTY_RUNS ?? 60); // of each kind of file

/** Values that a number, a list, a name or an object may be confused with. */
const nasty = fc.oneof(
  fc.constantFrom(null, true, '', '\u0000', 'NaN', [], {}, -1, 0, 0.5, 1, 2, 3, 7, 255, 2 ** 31, 2 ** 32, 2 ** 53, 1e308, -1e-308),
  fc.constantFrom(['a', 'b'], [[]], { __proto__: 1 }, { constructor: { prototype: 1 } }, 'x'.repeat(5000), '{{ 1/0 }}', '{% for'),
  fc.jsonValue({ maxDepth: 2 }),
);

type Change = { pick: number[]; value: unknown; remove: boolean };
const changes = fc.array(
  fc.record({ pick: fc.array(fc.nat(), { minLength: 4, maxLength: 4 }), value: nasty, remove: fc.boolean() }) as fc.Arbitrary<Change>,
  { minLength: 1, maxLength: 3 },
);

/** Walks down by `pick` and replaces or removes what it finds there. */
function change(root: unknown, { pick, value, remove }: Change): void {
  let at = root as Record<string, unknown>;
  for (const [depth, n] of pick.entries()) {
    const keys = Object.keys(at);
    if (keys.length === 0) return;
    const key = keys[n % keys.length]!;
    const below = at[key];
    if (depth < pick.length - 1 && n % 3 > 0 && typeof below === 'object' && below !== null) {
      at = below as Record<string, unknown>;
      continue;
    }
    if (remove) delete at[key];
    else at[key] = structuredClone(value); // the next change may walk into it
    return;
  }
}

/** Loads the directory, and generates a little when it loads. */
async function attempt(folder: string): Promise<void> {
  try {
    const model = await loadModel(folder, { threads: 1, maxBatch: 2 });
    try {
      const { text } = await model.complete('Once upon a time', { maxTokens: 8 });
      assert.type(text, 'string');
      if (model.tokenizer.hasChatTemplate) model.tokenizer.applyChatTemplate([{ role: 'user', content: 'Hello' }]);
    } finally {
      await model.close();
    }
  } catch (error) {
    if (!(error instanceof ChaiError)) throw error;
    assert.ok(error.message.length > 10 && error.message.length < 20_000, error.message);
  }
}

async function withCopy(name: string, run: (folder: string) => Promise<void>): Promise<void> {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-hostile-'));
  try {
    fs.cpSync(modelPath(name), folder, { recursive: true });
    await run(folder);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

/** Runs `attempt` on the fixture with one JSON file changed. */
const jsonProperty = (model: string, file: string, sound?: object) =>
  withCopy(model, async (folder) => {
    const at = path.join(folder, file);
    const text = sound ? JSON.stringify(sound) : fs.readFileSync(at, 'utf8');
    await fc.assert(
      fc.asyncProperty(changes, async (list) => {
        const object = JSON.parse(text);
        for (const one of list) change(object, one);
        fs.writeFileSync(at, JSON.stringify(object));
        await attempt(folder);
      }),
      { numRuns: runs },
    );
  });

/** Runs `attempt` on the fixture with one file cut or with changed bytes. */
const bytesProperty = (model: string, file: string, within: number) =>
  withCopy(model, async (folder) => {
    const at = path.join(folder, file);
    const sound = fs.readFileSync(at);
    const edits = fc.array(fc.tuple(fc.nat(Math.min(within, sound.length) - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    const cut = fc.option(fc.nat(sound.length), { nil: undefined });
    await fc.assert(
      fc.asyncProperty(edits, cut, async (list, length) => {
        const bytes = Buffer.from(sound);
        for (const [position, value] of list) bytes.writeUInt8(value, position);
        fs.writeFileSync(at, bytes.subarray(0, length));
        await attempt(folder);
      }),
      { numRuns: runs },
    );
  });

const chatConfig = {
  tokenizer_class: 'PreTrainedTokenizerFast',
  bos_token: '<s>',
  eos_token: '</s>',
  chat_template: "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}\n{% endfor %}",
  added_tokens_decoder: { 0: { content: '<s>', special: true }, 1: { content: '</s>', special: true } },
};
const plan = JSON.parse(fs.readFileSync(path.join(__dirname, '../../models/starter/head-plan.json'), 'utf8'));

test('config.json, Llama', () => jsonProperty('llama3-rope', 'config.json'));
test('config.json, OPT', () => jsonProperty('opt-pre', 'config.json'));
test('generation_config.json', () => jsonProperty('llama-mha', 'generation_config.json', { eos_token_id: [1, 2], bos_token_id: 0 }));
test('tokenizer.json', () => jsonProperty('llama-mha', 'tokenizer.json'));
test('tokenizer_config.json with a chat template', () => jsonProperty('llama-mha', 'tokenizer_config.json', chatConfig));
test('model.safetensors.index.json', () => jsonProperty('llama-sharded-f16', 'model.safetensors.index.json'));
test('head-plan.json', () => jsonProperty('llama-mha', 'head-plan.json', plan));
test('bytes of the header of model.safetensors', () => bytesProperty('llama-mha', 'model.safetensors', 2000));
test('bytes of tokenizer.json', () => bytesProperty('llama-mha', 'tokenizer.json', Number.MAX_SAFE_INTEGER));

test.run();

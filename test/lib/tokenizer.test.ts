// The tokenizer of the starter model against tokenizers (Rust); special tokens and chat templates against transformers.
import { readFileSync } from 'node:fs';
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ChaiError } from '../../lib/errors';
import type { ModelFiles } from '../../lib/model_files';
import { TokenDecoder } from '../../lib/text_stream';
import { Tokenizer } from '../../lib/tokenizer';
import { TokenizerCore } from '../../lib/tokenizer_core';

const starter = path.join(__dirname, '..', '..', 'models', 'starter');
const files = (fields: Partial<ModelFiles> = {}) =>
  ({
    directory: starter,
    tokenizer: path.join(starter, 'tokenizer.json'),
    tokenizerConfig: { bos_token: '<s>', eos_token: { content: '</s>' }, add_bos_token: false },
    ...fields,
  }) as ModelFiles;

function code(work: () => unknown): string | undefined {
  try {
    work();
  } catch (error) {
    assert.instance(error, ChaiError, String((error as Error).stack));
    return (error as ChaiError).code;
  }
  return undefined;
}

// Ids by tokenizers 0.23.2: Tokenizer.from_file('models/starter/tokenizer.json').encode(text).ids; then decode with and without special tokens.
const texts: [string, number[], string?][] = [
  ['Once upon a time', [48, 79, 384, 751, 260, 585]],
  ['', []],
  [' two  spaces', [760, 222, 446, 344, 294]],
  [
    'naïve café — “quoted” 😀👩‍👩‍👧',
    [
      79, 66, 129, 109, 317, 277, 66, 71, 129, 104, 222, 160, 224, 244, 222, 160, 224, 252, 429, 310, 273, 160, 224, 253, 222, 174, 255,
      248, 224, 174, 255, 241, 104, 160, 224, 237, 174, 255, 241, 104, 160, 224, 237, 174, 255, 241, 102,
    ],
  ],
  ['<s>Hi</s>', [0, 41, 74, 1], 'Hi'],
  ['line\n\n\tend', [77, 634, 200, 200, 199, 601]],
  ['日本語テキスト', [164, 247, 100, 164, 252, 107, 166, 105, 254, 161, 227, 230, 161, 226, 257, 161, 226, 119, 161, 227, 232]],
  ['1234567.89', [18, 19, 20, 21, 22, 23, 24, 15, 25, 26]],
];

test('ids and texts agree with the Rust tokenizers', () => {
  const tokenizer = new Tokenizer(files());
  for (const [text, ids, withoutSpecial = text] of texts) {
    assert.equal(tokenizer.encode(text), ids, text);
    assert.is(tokenizer.decode(ids), withoutSpecial);
    assert.is(tokenizer.decode(Int32Array.from(ids), { skipSpecialTokens: false }), text);
  }
});

test('the post-processor of tokenizer.json says what is added, as in transformers 5 (which ignores add_bos_token beside that file)', async () => {
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'chai-llm-'));
  const json = JSON.parse(await fs.readFile(path.join(starter, 'tokenizer.json'), 'utf8'));
  const single = [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }];
  const pair = [...single, { Sequence: { id: 'B', type_id: 0 } }];
  const special_tokens = { '<s>': { id: '<s>', ids: [0], tokens: ['<s>'] } };
  json.post_processor = { type: 'TemplateProcessing', single, pair, special_tokens };
  const tokenizerPath = path.join(folder, 'tokenizer.json');
  await fs.writeFile(tokenizerPath, JSON.stringify(json));
  // AutoTokenizer.from_pretrained(folder).encode('Hi') gives [0, 41, 74] whatever add_bos_token says
  for (const add_bos_token of [true, false, undefined]) {
    const tokenizer = new Tokenizer(files({ tokenizer: tokenizerPath, tokenizerConfig: { bos_token: '<s>', add_bos_token } }));
    assert.equal(tokenizer.encode('Hi'), [0, 41, 74]);
    assert.equal(tokenizer.encode('Hi', { addSpecialTokens: false }), [41, 74]);
  }
  assert.equal(new Tokenizer(files({ tokenizerConfig: { bos_token: '<s>', add_bos_token: true } })).encode('Hi'), [41, 74]);
  await fs.rm(folder, { recursive: true });
});

const template =
  "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
const messages = [
  { role: 'user', content: ' Hi ' },
  { role: 'assistant', content: 'Yes.' },
  { role: 'user', content: 'Why?' },
];

test('chat templates agree with transformers, and hold the beginning token once', () => {
  // AutoTokenizer.from_pretrained('models/starter').apply_chat_template(messages, chat_template=template, tokenize=False)
  const text = '<s>[user] Hi[assistant] Yes.</s>[user] Why?';
  for (const given of [
    { chatTemplateFile: template },
    { tokenizerConfig: { ...files().tokenizerConfig, chat_template: template } },
    { tokenizerConfig: { ...files().tokenizerConfig, chat_template: [{ name: 'default', template }] } },
    {
      tokenizerConfig: {
        ...files().tokenizerConfig,
        chat_template: [
          { name: 'tools', template: 'no' },
          { name: 'default', template },
        ],
      },
    },
  ]) {
    const tokenizer = new Tokenizer(files(given));
    assert.ok(tokenizer.hasChatTemplate);
    assert.is(tokenizer.applyChatTemplate(messages), `${text}[assistant]`);
    assert.is(tokenizer.applyChatTemplate(messages, { addGenerationPrompt: false }), text);
    assert.equal(tokenizer.encode(`${text}[assistant]`, { addSpecialTokens: false }).slice(0, 5), [0, 60, 493, 271, 62]);
  }
});

test('variables reach the template; its own refusals are typed', () => {
  const tokenizer = new Tokenizer(
    files({ chatTemplateFile: "{{ topic }}{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}" }),
  );
  assert.is(tokenizer.applyChatTemplate([messages[0]!], { variables: { topic: 'birds' } }), 'birds');
  assert.throws(() => tokenizer.applyChatTemplate(messages), /refused.*one only/);
  assert.is(
    code(() => tokenizer.applyChatTemplate(messages)),
    'OPTION_INVALID',
  );
  assert.is(
    code(() => new Tokenizer(files({ chatTemplateFile: '{% for' })).applyChatTemplate(messages)),
    'OPTION_INVALID',
  );
});

test('range in a template counts as in Python, and makes no list that would end the process', () => {
  const written = (template: string) => new Tokenizer(files({ chatTemplateFile: template })).applyChatTemplate([]);
  assert.is(written('{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(1, 3) %}{{ i }}{% endfor %}'), '01212');
  assert.is(
    written('{{ range(5, 0, -2)|join(",") }} {{ range(0)|length }} {{ range(2, 1)|length }} {{ range(0, 7, 3)|join(",") }}'),
    '5,3,1 0 0 0,3,6',
  );
  for (const call of ['range(300000000)', 'range(0, 1, 0)', 'range("x")', 'range(0, 1, 0.0000001)'])
    assert.throws(() => written(`{{ ${call}|length }}`), /refused.*range/);
});

test('wrong arguments are refused', () => {
  const tokenizer = new Tokenizer(files());
  assert.not(tokenizer.hasChatTemplate);
  assert.throws(() => tokenizer.applyChatTemplate(messages), /no chat template.*yourself/);
  for (const work of [
    () => tokenizer.applyChatTemplate(messages),
    () => tokenizer.applyChatTemplate('hi' as never),
    () => tokenizer.applyChatTemplate([null] as never),
    () => tokenizer.encode(undefined as never),
    () => tokenizer.encode('a', { addSpecial: false } as never),
    () => tokenizer.decode(3 as never),
    () => tokenizer.decode([0.5]),
    () => tokenizer.decode([1], { skipSpecialTokens: 1 } as never),
  ])
    assert.is(code(work), 'OPTION_INVALID');
  assert.equal(tokenizer.encode('Hi', null as never), [41, 74]);
  assert.is(tokenizer.decode([5000, 41, 2 ** 40, 74]), 'Hi', 'ids of no token are left out');
});

test('files that are no tokenizer', () => {
  const config = {};
  for (const text of ['', '{', '[]', '{}', '{"model": 3}', '{"model": {"type": "Magic"}}', '{"model": {"type": "BPE"}}'])
    assert.is(
      code(() => new TokenizerCore(text, config, 'tokenizer.json')),
      'MODEL_INVALID',
      text,
    );
  assert.is(
    code(() => new Tokenizer(files({ tokenizer: '/nowhere/tokenizer.json' })).encode('a')),
    'MODEL_NOT_FOUND',
  );
});

const plain = { version: '1.0', added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
const core = (fields: object) => new TokenizerCore(JSON.stringify({ ...plain, ...fields }), {}, 'tokenizer.json');

test('characters that no token has: left out or refused, as by the Rust tokenizers, never another token', () => {
  // Tokenizer(models.BPE({'a': 0, 'b': 1}, [])).encode('axb').ids == [0, 1]; the other two raise an exception
  assert.equal(core({ model: { type: 'BPE', vocab: { a: 0, b: 1 }, merges: [], unk_token: null } }).encode('axb'), [0, 1]);
  const wordLevel = { type: 'WordLevel', vocab: { a: 0 }, unk_token: '[UNK]' };
  const unigram = { type: 'Unigram', vocab: [['a', 0]], unk_id: null };
  for (const model of [wordLevel, unigram])
    assert.is(
      code(() => core({ model }).encode('axb')),
      'MODEL_INVALID',
    );
});

/** A vocabulary in the manner of SentencePiece: '▁' for spaces, and a token for each byte. */
function byteFallback(): TokenizerCore {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
  const tokens = ['<unk>', ...bytes, '▁', ...'abcdeé日'];
  const replace = (pattern: string, content: string) => ({ type: 'Replace', pattern: { String: pattern }, content });
  return core({
    normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, replace(' ', '▁')] },
    decoder: {
      type: 'Sequence',
      decoders: [replace('▁', ' '), { type: 'ByteFallback' }, { type: 'Fuse' }, { type: 'Strip', content: ' ', start: 1, stop: 0 }],
    },
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: [],
      unk_token: '<unk>',
      byte_fallback: true,
      fuse_unk: true,
    },
  });
}

test('a stream of any text, after any prompt, is the text: spaces, bytes and all', () => {
  const starterCore = new TokenizerCore(readFileSync(path.join(starter, 'tokenizer.json'), 'utf8'), {}, 'tokenizer.json');
  const piece = fc.constantFrom('a', 'bc', ' ', '  ', '\n', 'é', '日', '龘', '靐', '😀', '👩‍👩‍👧', '한', '𠮷', '.');
  const text = fc.array(piece, { maxLength: 20 }).map((pieces) => pieces.join(''));
  const word = text.map((rest) => `a${rest}`); // what a prompt ends with and a text begins with is not changed by decoding
  for (const tokenizer of [starterCore, byteFallback()])
    fc.assert(
      fc.property(word, word, (prompt, added) => {
        const promptIds = tokenizer.encode(prompt);
        const ids = tokenizer.encode(` ${added}`).slice(tokenizer === starterCore ? 0 : 1); // without the prepended '▁'
        const decoder = new TokenDecoder((list) => tokenizer.decode(list), promptIds);
        const pieces = ids.map((id) => decoder.push(id));
        assert.not.ok(pieces.some((shown) => shown.includes('\uFFFD')));
        assert.is(pieces.join('') + decoder.flush(), ` ${added}`);
      }),
      { numRuns: 500 },
    );
});

test.run();

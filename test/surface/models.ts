// Model directories for these tests, made of the starter model. Out: a directory with a chat template; one that is slow enough to interrupt.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { starter } from './programs';

export const chatTemplate =
  '{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}';

/** What the template makes of a conversation, by hand. */
export const templated = (messages: [role: string, content: string][]) =>
  `${messages.map(([role, content]) => `<${role}>${content}\n`).join('')}<assistant>`;

function directory(): string {
  const made = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-surface-'));
  process.once('exit', () => fs.rmSync(made, { recursive: true, force: true }));
  return made;
}

const json = (file: string) => JSON.parse(fs.readFileSync(path.join(starter, file), 'utf8'));

/** The starter model with a chat template. */
export function modelWithTemplate(): string {
  const made = directory();
  for (const file of fs.readdirSync(starter)) fs.copyFileSync(path.join(starter, file), path.join(made, file));
  const config = { ...json('tokenizer_config.json'), chat_template: chatTemplate };
  fs.writeFileSync(path.join(made, 'tokenizer_config.json'), JSON.stringify(config));
  return made;
}

const slow = { hidden: 512, inner: 1376, layers: 8, heads: 8, vocabulary: 1024, context: 4096 };

function slowShapes(): [name: string, shape: number[]][] {
  const { hidden, inner, layers, vocabulary } = slow;
  const layer = (l: number): [string, number[]][] => [
    [`model.layers.${l}.input_layernorm.weight`, [hidden]],
    [`model.layers.${l}.post_attention_layernorm.weight`, [hidden]],
    ...['q', 'k', 'v', 'o'].map((name): [string, number[]] => [`model.layers.${l}.self_attn.${name}_proj.weight`, [hidden, hidden]]),
    [`model.layers.${l}.mlp.gate_proj.weight`, [inner, hidden]],
    [`model.layers.${l}.mlp.up_proj.weight`, [inner, hidden]],
    [`model.layers.${l}.mlp.down_proj.weight`, [hidden, inner]],
  ];
  return [
    ['model.embed_tokens.weight', [vocabulary, hidden]],
    ['model.norm.weight', [hidden]],
    ...Array.from({ length: layers }, (_, l) => layer(l)).flat(),
  ];
}

/** Random weights of 26 M parameters, float16, with the starter's tokenizer: thousands of tokens take it many seconds. */
export function slowModel(): string {
  const made = directory();
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) fs.copyFileSync(path.join(starter, file), path.join(made, file));
  const config = {
    ...json('config.json'),
    hidden_size: slow.hidden,
    intermediate_size: slow.inner,
    num_hidden_layers: slow.layers,
    num_attention_heads: slow.heads,
    num_key_value_heads: slow.heads,
    max_position_embeddings: slow.context,
  };
  fs.writeFileSync(path.join(made, 'config.json'), JSON.stringify(config));
  let end = 0;
  const table = slowShapes().map(([name, shape]) => {
    const start = end;
    end += 2 * shape.reduce((product, size) => product * size, 1);
    return [name, { dtype: 'F16', shape, data_offsets: [start, end] }];
  });
  const text = JSON.stringify(Object.fromEntries(table));
  const header = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  let state = 12345;
  const weights = Uint16Array.from({ length: end / 2 }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 0x2000 + ((state >>> 16) & 0x8bff); // either sign, below 0.06
  });
  fs.writeFileSync(path.join(made, 'model.safetensors'), Buffer.concat([length, header, Buffer.from(weights.buffer)]));
  return made;
}

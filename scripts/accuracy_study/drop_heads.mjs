// The control that leaves whole heads out. In: a model directory, which heads. Out: a copy whose attention output ignores them, and a plan
// that neither computes nor caches them, so that the bytes saved are real.
import fs from 'node:fs/promises';
import path from 'node:path';
import { randomNumbers } from '../../dist/evaluate/random.js';
import { evaluate, loadModel } from '../../dist/index.js';

const outputWeight = /(?:^|\.)layers\.(\d+)\.self_attn\.(?:o_proj|out_proj)\.weight$/;
const bytesOf = { F32: 4, F16: 2, BF16: 2 };

/** Where the attention output weights lie: [hidden x heads * headDim], row-major, one matrix a layer. */
async function locate(directory) {
  const found = [];
  for (const name of (await fs.readdir(directory)).filter((file) => file.endsWith('.safetensors'))) {
    const file = await fs.open(path.join(directory, name));
    try {
      const length = Number((await file.read(Buffer.alloc(8), 0, 8, 0)).buffer.readBigUInt64LE());
      const header = JSON.parse((await file.read(Buffer.alloc(length), 0, length, 8)).buffer.toString());
      for (const [tensor, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
        const layer = outputWeight.exec(tensor)?.[1];
        if (layer !== undefined)
          found.push({ name, layer: Number(layer), rows: shape[0], columns: shape[1], size: bytesOf[dtype], at: 8 + length + offsets[0] });
      }
    } finally {
      await file.close();
    }
  }
  if (found.length === 0) throw new Error(`${directory} has no attention output weights under names this script knows`);
  return found;
}

/** Writes the original's attention output weights into the copy, with the columns of `dropped` ([layer, head] pairs) zero. */
async function patch(original, copy, heads, dropped) {
  for (const { name, layer, rows, columns, size, at } of await locate(original)) {
    const source = await fs.open(path.join(original, name));
    const target = await fs.open(path.join(copy, name), 'r+');
    try {
      const { buffer } = await source.read(Buffer.alloc(rows * columns * size), 0, rows * columns * size, at);
      const width = (columns / heads) * size;
      for (const [of, head] of dropped)
        if (of === layer)
          for (let row = 0; row < rows; ++row)
            buffer.fill(0, row * columns * size + head * width, row * columns * size + (head + 1) * width);
      await target.write(buffer, 0, buffer.length, at);
    } finally {
      await source.close();
      await target.close();
    }
  }
}

/** A copy of a model directory without its head plan. */
async function copyModel(original, copy) {
  await fs.rm(copy, { recursive: true, force: true });
  await fs.mkdir(copy, { recursive: true });
  for (const name of await fs.readdir(original)) {
    const file = path.join(original, name);
    if (name !== 'head-plan.json' && (await fs.stat(file)).isFile()) await fs.copyFile(file, path.join(copy, name));
  }
}

/** How much worse the model is without each head alone: nats a token on `text`. [layers x heads], kept in `cache` as it grows. */
export async function headImportance(directory, text, { layers, heads, cache, load, windows, signal, onHead }) {
  const done = JSON.parse(await fs.readFile(cache, 'utf8').catch(() => '{}'));
  const copy = `${cache}.model`;
  const measure = async (dropped) => {
    await patch(directory, copy, heads, dropped);
    const model = await loadModel(copy, { ...load, attention: 'dense' });
    try {
      const { tasks } = await evaluate(model, { tasks: [{ task: 'perplexity', file: text }], limit: windows, window: 256, signal });
      return tasks[0].results[0].figures.find(({ name }) => name === 'natsPerToken').value;
    } finally {
      await model.close();
    }
  };
  await copyModel(directory, copy);
  try {
    for (const key of ['none', ...Array.from({ length: layers * heads }, (_, i) => `${Math.floor(i / heads)}.${i % heads}`)]) {
      if (done[key] !== undefined) continue;
      done[key] = await measure(key === 'none' ? [] : [key.split('.').map(Number)]);
      await fs.writeFile(cache, JSON.stringify(done));
      onHead?.(key);
    }
  } finally {
    await fs.rm(copy, { recursive: true, force: true });
  }
  return Array.from({ length: layers }, (_, layer) => Array.from({ length: heads }, (_, head) => done[`${layer}.${head}`] - done.none));
}

/**
 * Which heads to drop, [layer, head], so that as many bytes go as with `counts` clusters, or half a head's fewer: a dropped head saves its
 * key and its value, a clustered one its key alone. The least needed first, or by chance (`seed`); each layer keeps one.
 */
export function chooseDropped(counts, heads, { importance, seed }) {
  const wanted = Math.floor(counts.reduce((sum, count) => sum + heads - count, 0) / 2);
  const random = randomNumbers(seed ?? 0);
  const all = counts.flatMap((_, layer) =>
    Array.from({ length: heads }, (_, head) => [layer, head, importance ? importance[layer][head] : random()]),
  );
  const left = counts.map(() => heads);
  const dropped = [];
  for (const [layer, head] of all.toSorted((a, b) => a[2] - b[2])) {
    if (dropped.length === wanted) break;
    if (left[layer] === 1) continue;
    left[layer] -= 1;
    dropped.push([layer, head]);
  }
  return dropped;
}

/** The model without these heads, as a directory, and the plan to run it with. The weights that read a dropped head are zero. */
export async function dropHeads(original, copy, { layers, heads, dropped }) {
  await copyModel(original, copy);
  await patch(original, copy, heads, dropped);
  const maps = Array.from({ length: layers }, (_, layer) => {
    const gone = new Set(dropped.filter(([of]) => of === layer).map(([, head]) => head));
    const kept = Array.from({ length: heads }, (_, head) => head).filter((head) => !gone.has(head));
    const slot = Array.from({ length: heads }, (_, head) => Math.max(0, kept.indexOf(head)));
    const map = { scoresFrom: layer, scoreOfQuery: slot, queryOfScore: kept, keyOfScore: kept.map((_, i) => i), keptKeys: kept };
    return { map: { ...map, valueOfQuery: slot, keptValues: kept } };
  });
  return { format: 'chai-llm/head-plan@1', method: 'explicit', layers: maps };
}

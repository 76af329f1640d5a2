// Sixteen concurrent calls are computed together, in shared steps. Run: node examples/many_at_once.mjs [model directory]
import { fileURLToPath } from 'node:url';
import { loadModel } from 'chai-llm';

const directory = process.argv[2] ?? fileURLToPath(new URL('../models/starter', import.meta.url));
const animals = 'fox bear wolf cat dog horse cow goat sheep pig hen duck frog mouse owl bee'.split(' ');
const model = await loadModel(directory, { maxBatch: animals.length });

const results = await Promise.all(animals.map((animal) => model.complete(`The little ${animal} said`, { maxTokens: 24, ignoreEos: true })));

for (const [i, { text }] of results.entries()) console.log(`The little ${animals[i]} said${text.replaceAll('\n', ' ')}`);
const tokens = results.reduce((sum, { usage }) => sum + usage.completionTokens, 0);
const { steps, largestBatch } = model.stats;
console.log(`${tokens} tokens in ${steps} steps, up to ${largestBatch} sequences in one`);
await model.close();

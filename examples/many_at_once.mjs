// Concurrent calls are computed together, one pass over the weights for all of them. Run: node examples/many_at_once.mjs
import { loadModel } from 'chai-llm';

const model = await loadModel(new URL('../models/starter', import.meta.url).pathname);
const prompts = Array.from({ length: 16 }, (_, i) => `Chapter ${i + 1}.`);
const answers = await Promise.all(prompts.map((prompt) => model.complete(prompt, { maxTokens: 20 })));
for (const [i, { text }] of answers.entries()) console.log(`${prompts[i]}${text.replaceAll('\n', ' ')}`);
const { steps, rows, largestBatch } = model.stats;
console.log(`${rows} tokens in ${steps} steps, at most ${largestBatch} sequences in one`);
await model.close();

// Streams text as it is written. Run: node examples/stream.mjs [prompt] [model directory]
import { fileURLToPath } from 'node:url';
import { loadModel } from 'chai-llm';

const prompt = process.argv[2] ?? 'Once upon a time';
const directory = process.argv[3] ?? fileURLToPath(new URL('../models/starter', import.meta.url));

const model = await loadModel(directory);
const generation = model.generate(prompt, { maxTokens: 60, temperature: 0.7, seed: 7 });

process.stdout.write(prompt);
for await (const token of generation) process.stdout.write(token.text);
process.stdout.write('\n');

const { usage, finishReason } = generation; // known once the loop has ended
console.log(`${usage.promptTokens} prompt tokens, ${usage.completionTokens} generated, ended by ${finishReason}`);
await model.close();

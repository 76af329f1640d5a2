// Streams text as it is made. Run: node examples/stream.mjs [MODEL] [PROMPT]
import { loadModel } from 'chai-llm';

const [directory = new URL('../models/starter', import.meta.url).pathname, prompt = 'Once upon a time'] = process.argv.slice(2);
const model = await loadModel(directory);
process.stdout.write(prompt);
for await (const token of model.generate(prompt, { maxTokens: 60, temperature: 0.7, seed: 1 })) process.stdout.write(token.text);
process.stdout.write('\n');
await model.close();

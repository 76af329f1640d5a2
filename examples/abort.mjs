// Three ways to end a generation early. Run: node examples/abort.mjs
import { loadModel } from 'chai-llm';

const model = await loadModel(new URL('../models/starter', import.meta.url).pathname);

let count = 0; // 1: leave the loop
for await (const _token of model.generate('Once', { maxTokens: 200 })) if (++count === 5) break;
console.log(`left after ${count} tokens`);

const stop = new AbortController(); // 2: an AbortSignal; the loop throws
setTimeout(() => stop.abort(), 5);
await model.complete('Once', { ignoreEos: true, signal: stop.signal }).catch((error) => console.log(`${error.code}: ${error.message}`));

const { text, finishReason } = await model.complete('Once', { maxTokens: 200, stop: 'ing' }); // 3: a stop string
console.log(`${JSON.stringify(text)} ended by '${finishReason}'`);
await model.close();

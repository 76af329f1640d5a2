// A session keeps its K/V cache from turn to turn; it can be forked and cut back. Run: node examples/chat_session.mjs [model directory]
import { fileURLToPath } from 'node:url';
import { loadModel } from 'chai-llm';

const directory = process.argv[2] ?? fileURLToPath(new URL('../models/starter', import.meta.url));
const model = await loadModel(directory);
const session = await model.createSession();
const options = { maxTokens: 20 };

// Each turn sends only what is new. With an instruction-tuned model a turn would be the chat template's text instead.
const first = await session.complete('Once there was a king who had three sons', options);
console.log(`turn 1: ${JSON.stringify(first.text)} (${first.usage.promptTokens} tokens sent)`);
const afterFirst = session.tokens.length;
const second = await session.complete('\nThe youngest', options);
console.log(`turn 2: ${JSON.stringify(second.text)} (${second.usage.promptTokens} tokens sent, ${session.tokens.length} in the session)`);

// A fork shares the cache's pages and goes its own way.
const fork = session.fork();
const other = await fork.complete('\nBut the eldest', options);
console.log(`fork:   ${JSON.stringify(other.text)}`);
await fork.close();

// Cutting back to the end of turn 1 takes turn 2 back; asked again, the model says the same again.
session.truncate(afterFirst);
const again = await session.complete('\nThe youngest', options);
console.log(`again:  ${JSON.stringify(again.text)}`);

await session.close();
await model.close();

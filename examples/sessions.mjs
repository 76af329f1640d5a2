// A session keeps its cache: going on, trying two continuations, cutting back. Run: node examples/sessions.mjs
import { loadModel } from 'chai-llm';

const model = await loadModel(new URL('../models/starter', import.meta.url).pathname);
const session = await model.createSession();
await session.complete('There was once a fox', { maxTokens: 20 });
const length = session.tokens.length;

const twin = session.fork(); // shares the cache's pages until one of the two writes
const [one, two] = await Promise.all([
  session.complete(' who said', { maxTokens: 15, temperature: 0.8, seed: 1 }),
  twin.complete(' who said', { maxTokens: 15, temperature: 0.8, seed: 2 }),
]);
console.log(`1: ${one.text}\n2: ${two.text}`);

session.truncate(length); // back to before the question
console.log(model.tokenizer.decode(session.tokens));
await model.close(); // closes its sessions too

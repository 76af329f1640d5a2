// Three ways to end a generation early; the session stays good. Run: node examples/abort.mjs [model directory]
import { fileURLToPath } from 'node:url';
import { ChaiError, loadModel } from 'chai-llm';

const directory = process.argv[2] ?? fileURLToPath(new URL('../models/starter', import.meta.url));
const model = await loadModel(directory);
const session = await model.createSession();

// 1. Leave the loop: the engine stops within one step, and the session holds just the tokens that were handed out.
let count = 0;
for await (const _ of session.generate('Far away in the north')) if (++count === 5) break;
console.log(`left the loop after ${count} tokens; the session has ${session.tokens.length}`);

// 2. An AbortSignal, such as that of a closed connection: the loop throws ABORTED.
const controller = new AbortController();
try {
  for await (const _ of session.generate([], { signal: controller.signal })) if (++count === 10) controller.abort();
} catch (error) {
  if (!(error instanceof ChaiError)) throw error;
  console.log(`aborted after ${count} tokens with ${error.code}; the session has ${session.tokens.length}`);
}

// 3. stop(): the loop ends without an error.
const generation = session.generate([]);
for await (const _ of generation) if (++count === 15) generation.stop();
console.log(`stopped after ${count} tokens; the session has ${session.tokens.length}`);

console.log(`all of it: ${JSON.stringify(model.tokenizer.decode(session.tokens))}`);
await model.close();

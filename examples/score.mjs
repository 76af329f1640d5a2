// How well a model foresees a text: its perplexity, dense and clustered. Run: node examples/score.mjs [text] [model directory]
import { fileURLToPath } from 'node:url';
import { loadModel } from 'chai-llm';

const text = process.argv[2] ?? 'The rabbit ran down the hill as fast as he could, and the fox ran after him until they came to the river.';
const directory = process.argv[3] ?? fileURLToPath(new URL('../models/starter', import.meta.url));
const model = await loadModel(directory);
const ids = model.tokenizer.encode(text);

for (const attention of new Set(['dense', model.attention])) {
  const session = await model.createSession(attention === 'dense' ? { attention } : undefined);
  const logprobs = await session.score(ids);
  const nats = -logprobs.slice(1).reduce((sum, x) => sum + x, 0) / (ids.length - 1); // nothing foresees the first token
  console.log(`${attention}: ${ids.length} tokens, ${nats.toFixed(4)} nats a token, perplexity ${Math.exp(nats).toFixed(2)}`);
  await session.close();
}
await model.close();

// How likely a model finds a text, dense and clustered. Run: node examples/perplexity.mjs
import { loadModel } from 'chai-llm';

const text = 'The little girl went into the garden, and there she saw a great white cat sitting upon the wall.';
const model = await loadModel(new URL('../models/starter', import.meta.url).pathname);
const ids = model.tokenizer.encode(text);
for (const attention of ['dense', 'chai', 'chai-static']) {
  const session = await model.createSession({ attention });
  const scores = (await session.score(ids)).slice(1); // the first token has no probability
  const nats = -scores.reduce((sum, score) => sum + score, 0) / scores.length;
  const { keys, values } = session.cacheBytes;
  console.log(
    `${attention}: ${nats.toFixed(3)} nats a token, perplexity ${Math.exp(nats).toFixed(1)}, ${keys + values} bytes of K/V cache`,
  );
  await session.close();
}
await model.close();

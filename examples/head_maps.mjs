// Which heads share their attention scores, and what that saves in the cache. Run: node examples/head_maps.mjs [model directory]
import { fileURLToPath } from 'node:url';
import { loadModel } from 'chai-llm';

const directory = process.argv[2] ?? fileURLToPath(new URL('../models/starter', import.meta.url));
const model = await loadModel(directory);
const ids = model.tokenizer.encode('Once upon a time there was a little girl who lived in a wood with her mother and her old grandmother.');

const clustered = await model.createSession();
const dense = await model.createSession({ attention: 'dense' });
for (const session of [clustered, dense]) await session.evaluate(ids, { logits: 'none' });

// scoreOfQuery: query head -> score slot; queryOfScore: score slot -> the query head that computes it.
for (const [layer, { scoreOfQuery, queryOfScore }] of clustered.headMaps.entries()) {
  const clusters = queryOfScore.map((representative, slot) => {
    const members = scoreOfQuery.flatMap((of, head) => (of === slot ? [head] : []));
    return `${representative}:{${members.join(' ')}}`;
  });
  console.log(`layer ${layer}: ${queryOfScore.length} clusters  ${clusters.join(' ')}`);
}
for (const [name, session] of [
  ['dense', dense],
  [model.attention, clustered],
]) {
  const { keys, values } = session.cacheBytes;
  console.log(`${name}: ${ids.length} tokens, keys ${keys} B, values ${values} B`);
}
await model.close();

// Which heads share scores, and what that leaves of the K/V cache. Run: node examples/head_maps.mjs
import { loadModel } from 'chai-llm';

const model = await loadModel(new URL('../models/starter', import.meta.url).pathname);
const session = await model.createSession({ attention: 'chai' });
await session.evaluate(model.tokenizer.encode('In the middle of the wood there stood a house.'), { logits: 'none' });
for (const [layer, { scoreOfQuery, queryOfScore, keptKeys }] of session.headMaps.entries()) {
  const clusters = queryOfScore.map((representative, slot) => {
    const members = scoreOfQuery.flatMap((s, head) => (s === slot ? [head] : []));
    return `{${members.join(' ')}} by ${representative}`;
  });
  console.log(`layer ${layer}: ${clusters.join('  ')}  (${keptKeys.length} key heads kept)`);
}
const { keys, values, denseKeys, denseValues } = session.cacheBytes;
console.log(`keys ${keys} of ${denseKeys} bytes, values ${values} of ${denseValues}`);
await model.close();

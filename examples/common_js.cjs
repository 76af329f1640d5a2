// The same library through require. Run: node examples/common_js.cjs
const path = require('node:path');
const { loadModel } = require('chai-llm');

async function main() {
  const model = await loadModel(path.join(__dirname, '..', 'models', 'starter'));
  const { text, usage, timings } = await model.complete('The king and the', { maxTokens: 30 });
  console.log(text);
  console.log(`${usage.completionTokens} tokens, ${timings.decodeTokensPerSecond.toFixed(0)} tokens/s`);
  await model.close();
}

main();

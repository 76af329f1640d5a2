// The same library from CommonJS. Run: node examples/common_js.cjs [prompt] [model directory]
const path = require('node:path');
const { ChaiError, loadModel } = require('chai-llm');

async function main() {
  const prompt = process.argv[2] ?? 'The old man said';
  const model = await loadModel(process.argv[3] ?? path.join(__dirname, '..', 'models', 'starter'));
  try {
    const { text, finishReason } = await model.complete(prompt, { maxTokens: 30, stop: ['\n'] });
    console.log(`${prompt}${text}`);
    console.log(`ended by ${finishReason}`);
  } finally {
    await model.close();
  }
}

main().catch((error) => {
  console.error(error instanceof ChaiError ? `${error.code}: ${error.message}` : error);
  process.exitCode = 1;
});

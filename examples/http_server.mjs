// Streams text over HTTP; a client that goes away ends its generation. Run: node examples/http_server.mjs [port] [model directory]
// Then: curl -N -d '{"prompt": "Once upon a time", "maxTokens": 60}' http://127.0.0.1:3000/generate   and   curl http://127.0.0.1:3000/stats
import { once } from 'node:events';
import http from 'node:http';
import { fileURLToPath } from 'node:url';
import { ChaiError, loadModel } from 'chai-llm';

const port = Number(process.argv[2] ?? 3000);
const directory = process.argv[3] ?? fileURLToPath(new URL('../models/starter', import.meta.url));
const largestBody = 1e6;
const model = await loadModel(directory);
const statuses = { OPTION_INVALID: 400, CONTEXT_OVERFLOW: 400, OUT_OF_MEMORY: 503 };

async function readJson(request) {
  let text = '';
  request.setEncoding('utf8');
  for await (const chunk of request) {
    text += chunk;
    if (text.length > largestBody) throw new ChaiError('OPTION_INVALID', `the body is longer than ${largestBody} characters`);
  }
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    throw new ChaiError('OPTION_INVALID', 'the body is not valid JSON');
  }
  if (typeof body !== 'object' || body === null) throw new ChaiError('OPTION_INVALID', 'the body must be a JSON object');
  return body;
}

async function generate(request, response) {
  const gone = new AbortController();
  response.on('close', () => gone.abort()); // also after a whole answer, where it does nothing
  const { prompt, ...options } = await readJson(request);
  for await (const { text } of model.generate(prompt, { ...options, signal: gone.signal })) {
    if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' });
    if (!response.write(text)) await once(response, 'drain', { signal: gone.signal });
  }
  response.end();
}

function fail(response, error) {
  if (response.destroyed) return; // nobody is left to be told
  if (response.headersSent) return response.destroy(); // a cut stream, never one that looks whole
  const code = error instanceof ChaiError ? error.code : 'UNEXPECTED';
  response.writeHead(statuses[code] ?? 500, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ error: { code, message: error.message } }));
}

const server = http.createServer((request, response) => {
  if (request.method === 'POST' && request.url === '/generate') return generate(request, response).catch((error) => fail(response, error));
  if (request.method === 'GET' && request.url === '/stats') {
    response.writeHead(200, { 'content-type': 'application/json' });
    return response.end(JSON.stringify({ device: model.device, memory: model.memory, stats: model.stats }));
  }
  response.writeHead(404).end();
});
server.listen(port, '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`));

async function shutDown() {
  server.close();
  server.closeAllConnections();
  await model.close();
}
process.once('SIGTERM', shutDown);
process.once('SIGINT', shutDown);

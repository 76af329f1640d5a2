// A streaming endpoint: POST a prompt, read text as it is made; a client that leaves ends the work. Run: PORT=8080 node examples/http_server.mjs
// Then: curl -N -d "Once upon a time" http://127.0.0.1:8080
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import { loadModel } from 'chai-llm';

const model = await loadModel(new URL('../models/starter', import.meta.url).pathname);

const server = createServer(async (request, response) => {
  const gone = new AbortController();
  response.on('close', () => gone.abort());
  try {
    const prompt = await text(request);
    response.setHeader('content-type', 'text/plain; charset=utf-8');
    for await (const token of model.generate(prompt, { maxTokens: 100, signal: gone.signal })) response.write(token.text);
    response.end('\n');
  } catch (error) {
    if (!response.headersSent) response.statusCode = error.code === 'OPTION_INVALID' || error.code === 'CONTEXT_OVERFLOW' ? 400 : 500;
    response.end(`${error.code}: ${error.message}\n`);
  }
});

server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
process.once('SIGTERM', () => server.close(() => model.close()));

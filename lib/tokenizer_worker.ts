// The thread that keeps tokenizing and chat templates off the event loop. In: messages of tokenizer_channel.ts. Out: one answer each, in order.
import fs from 'node:fs/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { ChatTemplate } from './chat_template';
import { TokenDecoder } from './text_stream';
import type { WorkerAnswer, WorkerFiles, WorkerRequest } from './tokenizer_channel';
import { TokenizerCore } from './tokenizer_core';

const { path, config, directory, template } = workerData as WorkerFiles;
const chat = new ChatTemplate(template, config, directory);
const streams = new Map<number, TokenDecoder>();
let core: TokenizerCore;

async function answer(request: WorkerRequest): Promise<WorkerAnswer['result']> {
  switch (request.kind) {
    case 'load':
      core = new TokenizerCore(await fs.readFile(path, 'utf8'), config, path);
      return { size: core.size };
    case 'encode':
      return Int32Array.from(core.encode(request.text, { addSpecialTokens: request.addSpecialTokens }));
    case 'encodeChat': // the template writes the special tokens itself
      return Int32Array.from(core.encode(chat.render(request.messages), { addSpecialTokens: false }));
    case 'open':
      streams.set(request.stream, new TokenDecoder((ids) => core.decode(ids), request.context));
      return undefined;
    case 'push':
      return request.ids.map((id) => streams.get(request.stream)?.push(id) ?? '');
    case 'close': {
      const rest = streams.get(request.stream)?.flush() ?? '';
      streams.delete(request.stream);
      return rest;
    }
  }
}

parentPort?.on('message', async (request: WorkerRequest) => {
  try {
    parentPort?.postMessage({ id: request.id, result: await answer(request) } satisfies WorkerAnswer);
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    parentPort?.postMessage({ id: request.id, error: { code: code ?? 'MODEL_INVALID', message } } satisfies WorkerAnswer);
  }
});

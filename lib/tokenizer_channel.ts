// The event loop's end of the tokenizer thread. In: texts and ids. Out: promises of ids and text pieces; typed errors when the thread dies.
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { type ChatMessage, templateSource } from './chat_template';
import { ChaiError, toChaiError } from './errors';
import type { JsonObject } from './json_file';
import type { ModelFiles } from './model_files';

/** What the thread is started with. */
export interface WorkerFiles {
  path: string;
  config: JsonObject;
  directory: string;
  template: string | undefined;
}

export type WorkerRequest = { id: number } & RequestBody;
type RequestBody =
  | { kind: 'load' }
  | { kind: 'encode'; text: string; addSpecialTokens: boolean }
  | { kind: 'encodeChat'; messages: readonly ChatMessage[] }
  | { kind: 'open'; stream: number; context: number[] }
  | { kind: 'push'; stream: number; ids: number[] }
  | { kind: 'close'; stream: number };

export interface WorkerAnswer {
  id: number;
  result?: { size: number } | Int32Array | string[] | string;
  error?: { code: string; message: string };
}

interface Waiting {
  resolve: (value: never) => void;
  reject: (error: ChaiError) => void;
}

export class TokenizerChannel {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private next = 0;
  private dead: ChaiError | undefined;

  constructor(files: ModelFiles) {
    const { tokenizer, tokenizerConfig: config, chatTemplateFile, directory } = files;
    const workerData: WorkerFiles = { path: tokenizer, config, directory, template: templateSource(chatTemplateFile, config) };
    this.worker = new Worker(path.join(__dirname, 'tokenizer_worker.js'), { workerData, execArgv: [] });
    this.worker.unref();
    this.worker.on('message', ({ id, result, error }: WorkerAnswer) => {
      const request = this.waiting.get(id);
      if (!request) return;
      this.settle(id);
      if (error) request.reject(toChaiError(error, undefined, 'MODEL_INVALID'));
      else request.resolve(result as never);
    });
    this.worker.on('error', (error) =>
      this.fail(new ChaiError('DEVICE_FAULT', `the tokenizer thread failed: ${error.message}`, { cause: error })),
    );
    this.worker.on('exit', () => this.fail(new ChaiError('CLOSED', 'the tokenizer thread has ended; load the model again')));
  }

  /** Reads tokenizer.json; resolves with one more than the largest id. */
  load(): Promise<{ size: number }> {
    return this.ask({ kind: 'load' });
  }
  encode(text: string, addSpecialTokens: boolean): Promise<Int32Array> {
    return this.ask({ kind: 'encode', text, addSpecialTokens });
  }
  /** A conversation through the chat template. */
  encodeChat(messages: readonly ChatMessage[]): Promise<Int32Array> {
    return this.ask({ kind: 'encodeChat', messages });
  }
  /** A stream of pieces after `context`; one text a pushed id. */
  open(context: number[]): { push(ids: number[]): Promise<string[]>; close(): Promise<string> } {
    const stream = this.next++;
    const opened = this.ask<void>({ kind: 'open', stream, context });
    opened.catch(() => {}); // the next push tells
    return {
      push: (ids) => this.ask<string[]>({ kind: 'push', stream, ids }),
      close: () => this.ask<string>({ kind: 'close', stream }),
    };
  }

  async close(): Promise<void> {
    this.fail(new ChaiError('CLOSED', 'the model is closed; load it again'));
    await this.worker.terminate();
  }

  private ask<Result>(body: RequestBody): Promise<Result> {
    if (this.dead) return Promise.reject(this.dead);
    const id = this.next++;
    return new Promise<Result>((resolve, reject) => {
      try {
        this.worker.postMessage({ id, ...body });
      } catch (error) {
        return reject(new ChaiError('OPTION_INVALID', `messages must be plain data: ${(error as Error).message}`, { cause: error }));
      }
      this.waiting.set(id, { resolve: resolve as Waiting['resolve'], reject });
      this.worker.ref(); // an awaited answer keeps the process alive, an idle thread does not
    });
  }

  private settle(id: number): void {
    this.waiting.delete(id);
    if (this.waiting.size === 0) this.worker.unref();
  }

  private fail(error: ChaiError): void {
    this.dead ??= error;
    for (const [id, request] of this.waiting) {
      this.settle(id);
      request.reject(this.dead);
    }
  }
}

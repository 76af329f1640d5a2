// Streams text out of files of any size: plain, .gz or .xz. In: a path. Out: lines or documents one by one, in bounded memory.
import fs from 'node:fs';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { XzReadableStream } from 'xz-decompress';
import { abortError, ChaiError } from './errors';
import { isObject } from './json_file';
import { Turn } from './turn';

/** Longest line, in UTF-16 units: a compressed file may unpack to one line of any length. */
const longestLine = 1 << 24;
/** Longest piece of a plain text file, in UTF-16 units; longer files are given in several. */
const longestPiece = 1 << 20;

export interface TextReadOptions {
  /** Ends the reading with ABORTED before the next piece. */
  signal?: AbortSignal;
}

export interface TextLine {
  /** Without its line break. */
  text: string;
  /** Counted from 1. */
  line: number;
}

export interface TextDocument extends TextLine {
  file: string;
}

/**
 * The documents of a file whose name (before .gz or .xz) ends in .jsonl: one a line, a string or an object with a string `text`.
 * Any other file is plain text, its documents parted by form feeds (one document where there are none). Documents longer than 2^20
 * characters come in pieces that begin at blank lines where there are any.
 * One .xz file is unpacked at a time in a process: a second reader waits for the first, so read to the end or leave the loop.
 * @throws {ChaiError} OPTION_INVALID naming file and line; ABORTED
 */
export async function* readDocuments(path: string, options: TextReadOptions = {}): AsyncGenerator<TextDocument, void, void> {
  if (isJsonLines(path)) {
    for await (const { text, line, value } of readJsonLines(path, options)) {
      const found = isObject(value) ? value.text : value;
      if (typeof found !== 'string') throw badLine(path, line, `expected a string or an object with a string "text", not ${short(text)}`);
      yield { text: found, line, file: path };
    }
    return;
  }
  for await (const piece of pieces(readText(path, options), longestPiece)) yield { ...piece, file: path };
}

/** Whether the name says: one JSON value a line. */
export function isJsonLines(path: string): boolean {
  return /\.(jsonl|ndjson)(\.gz|\.xz)?$/i.test(path);
}

/** One JSON value a line; blank lines are skipped. Throws OPTION_INVALID naming file and line. */
export async function* readJsonLines(
  path: string,
  options: TextReadOptions = {},
): AsyncGenerator<TextLine & { value: unknown }, void, void> {
  for await (const { text, line } of readLines(path, options)) {
    if (text.trim() === '') continue;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw badLine(path, line, `is not valid JSON: ${(error as Error).message}`);
    }
    yield { text, line, value };
  }
}

/** Lines, ended by \n or \r\n. */
export async function* readLines(path: string, options: TextReadOptions = {}): AsyncGenerator<TextLine, void, void> {
  let rest = '';
  let line = 1;
  const turn = new Turn(options.signal, `reading ${path}`);
  const whole = (text: string) => ({ text: text.endsWith('\r') ? text.slice(0, -1) : text, line: line++ });
  for await (const chunk of readText(path, options)) {
    const parts = chunk.split('\n');
    parts[0] = rest + parts[0]; // split the chunk alone: a long line would be gone through again with each
    rest = parts.pop() ?? '';
    for (const text of parts) {
      yield whole(text);
      if (line % 64 === 0) await turn.over();
    }
    if (rest.length > longestLine) throw badLine(path, line, `is longer than the ${longestLine} characters a line may have`);
  }
  if (rest !== '') yield whole(rest);
}

/** The decoded text in chunks as they come off the disk. */
export async function* readText(path: string, { signal }: TextReadOptions = {}): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  const file = await open(path);
  const turn = new Turn(signal, `reading ${path}`);
  try {
    for await (const bytes of unpacked(path, file)) {
      await turn.over(); // a small .xz may hold any amount of text, which comes without a turn of the event loop
      if (signal?.aborted) throw abortError(signal, `reading ${path}`);
      const text = decoder.decode(bytes as Uint8Array, { stream: true });
      if (text !== '') yield text;
    }
    decoder.decode();
  } catch (error) {
    throw error instanceof ChaiError ? error : unreadable(path, error);
  } finally {
    file.destroy();
  }
}

/** Documents end at form feeds. A document longer than `most` comes in pieces; one without any word is left out. */
async function* pieces(chunks: AsyncIterable<string>, most: number): AsyncGenerator<TextLine, void, void> {
  let held = '';
  let line = 1;
  const take = (length: number): TextLine => {
    const piece = { text: held.slice(0, length), line };
    line += piece.text.split('\n').length - 1;
    held = held.slice(length);
    return piece;
  };
  for await (const chunk of chunks) {
    held += chunk;
    for (;;) {
      const end = held.indexOf('\f');
      if ((end < 0 ? held.length : end) > most) yield take(cutBefore(held, most));
      else if (end < 0) break;
      else {
        const piece = take(end);
        held = held.slice(1);
        if (piece.text.trim() !== '') yield piece;
      }
    }
  }
  if (held.trim() !== '') yield take(held.length);
}

/** Where to part a text: before a blank line, so that a tokenizer sees the same words on both sides as in the whole. */
function cutBefore(text: string, most: number): number {
  for (const mark of ['\n\n', '\n', ' ']) {
    const found = text.lastIndexOf(mark, most);
    if (found > 0) return mark === '\n\n' ? runStart(text, found) : found;
  }
  const second = text.charCodeAt(most);
  return second >= 0xdc00 && second <= 0xdfff ? most - 1 : most; // never between the halves of a character
}

/** The first of the line breaks that `at` is among; `at` itself when they go back to the beginning. */
function runStart(text: string, at: number): number {
  let first = at;
  while (first > 0 && text[first - 1] === '\n') --first;
  return first > 0 ? first : at;
}

async function open(path: string): Promise<fs.ReadStream> {
  if (typeof path !== 'string' || path === '') throw new ChaiError('OPTION_INVALID', 'a text file must be named by its path');
  try {
    const status = await fs.promises.stat(path);
    // Opening a pipe would wait for its other end, for ever.
    if (!status.isFile()) throw new ChaiError('OPTION_INVALID', `${path} is not a regular file`);
    if (status.size === 0) throw new ChaiError('OPTION_INVALID', `${path} is empty`);
    const stream = fs.createReadStream(path);
    stream.on('error', () => {}); // told through the iteration; this one is for failures while it is being left
    return stream;
  } catch (error) {
    throw error instanceof ChaiError ? error : unreadable(path, error);
  }
}

async function* unpacked(path: string, file: fs.ReadStream): AsyncGenerator<unknown, void, void> {
  if (/\.gz$/i.test(path)) {
    const gunzip = createGunzip();
    file.on('error', (error) => gunzip.destroy(error));
    yield* file.pipe(gunzip);
  } else if (/\.xz$/i.test(path)) {
    yield* new XzReadableStream(Readable.toWeb(file) as ReadableStream<Uint8Array>);
  } else yield* file;
}

function unreadable(path: string, error: unknown): ChaiError {
  const { code, message } = error as NodeJS.ErrnoException;
  const packed = /\.(gz|xz)$/i.exec(path)?.[0];
  const reason =
    code === 'ENOENT'
      ? `there is no ${path}`
      : code === 'ERR_ENCODING_INVALID_ENCODED_DATA'
        ? `${path} is not UTF-8 text`
        : packed && !/^E[A-Z]+$/.test(code ?? '')
          ? `${path} is not a whole ${packed} file: ${message}`
          : `cannot read ${path}: ${message}`;
  return new ChaiError('OPTION_INVALID', reason, { cause: error });
}

/** The error of a line that cannot be used: `what` says why. */
export function badLine(path: string, line: number, what: string): ChaiError {
  return new ChaiError('OPTION_INVALID', `${path}:${line}: ${what}`);
}

const short = (text: string) => (text.length > 80 ? `${text.slice(0, 80)}...` : text);

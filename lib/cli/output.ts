// Where a command's results go. In: text, names of files. Out: standard output without a rush; files known to be writable before hours of work.
import type { Stats } from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';
import { ChaiError } from '../errors';

/** Writes to standard output, waiting for a reader that is slow. */
export function write(text: string): Promise<void> {
  return new Promise((resolve) => (process.stdout.write(text) ? resolve() : process.stdout.once('drain', resolve)));
}

/** Better now than after hours. Names that were not given are skipped. */
export async function proveWritable(...files: readonly (string | undefined)[]): Promise<void> {
  for (const file of given(files)) await proveAccess(file, (await found(file)) ? file : folderOf(file));
}

/**
 * The same for files that are replaced as a whole: that takes the folder, and would put a plain file in the place of a device. One name for two
 * would leave only the last.
 */
export async function proveReplaceable(...files: readonly (string | undefined)[]): Promise<void> {
  const names = given(files).map((file) => path.resolve(file));
  for (const [i, file] of given(files).entries()) {
    if (names.indexOf(names[i] as string) < i) throw unwritable(file, 'two results have that name; name another one');
    if ((await found(file))?.isFile() === false) throw unwritable(file, 'it is there and is no regular file; name another one');
    await proveAccess(file, folderOf(file));
  }
}

const given = (files: readonly (string | undefined)[]) => files.filter((name) => name !== undefined);
const folderOf = (file: string) => path.dirname(path.resolve(file));

/** What has that name now. */
async function found(file: string): Promise<Stats | undefined> {
  const there = await fs.stat(file).catch(() => undefined);
  if (there?.isDirectory()) throw unwritable(file, 'it is a directory; name a file');
  return there;
}

function proveAccess(file: string, place: string): Promise<void> {
  return fs.access(place, fs.constants.W_OK).catch((error: Error) => {
    throw unwritable(file, error.message, error);
  });
}

function unwritable(file: string, why: string, cause?: Error): ChaiError {
  return new ChaiError('OPTION_INVALID', `cannot write ${file}: ${why}`, { cause });
}

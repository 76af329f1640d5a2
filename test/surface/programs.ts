// Runs the built command line and the examples as users do. In: arguments, input, what to do meanwhile. Out: exit code and both streams.
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

export const root = path.join(__dirname, '..', '..');
export const starter = path.join(root, 'models', 'starter');
const main = path.join(root, 'dist', 'cli', 'main.js');

export interface Ended {
  code: number | null;
  out: string;
  err: string;
}

export type Meanwhile = (child: ChildProcessWithoutNullStreams) => Promise<void> | void;

/** Newest change below a folder, in milliseconds. */
function changed(folder: string): number {
  const files = fs.readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return Math.max(...files.map((entry) => fs.statSync(path.join(entry.parentPath, entry.name)).mtimeMs));
}

// Tests of an old build would prove nothing about these sources.
if (changed(path.join(root, 'dist')) < changed(path.join(root, 'lib'))) throw new Error('dist/ is older than lib/: run `npm run build:ts`');

/** Runs a script of the package; standard input is `input` and then ends, unless `meanwhile` takes it over. */
export function script(file: string, args: string[], input?: string, meanwhile?: Meanwhile): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [file, ...args], { cwd: root, timeout: 120_000 });
    let [out, err] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text) => {
      out += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      err += text;
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, out, err }));
    child.stdin.on('error', () => {}); // a program may end before it has read everything
    if (!meanwhile) child.stdin.end(input ?? '');
    else
      Promise.resolve(meanwhile(child)).catch((error) => {
        child.kill('SIGKILL');
        reject(error);
      });
  });
}

export const cli = (args: string[], input?: string, meanwhile?: Meanwhile) => script(main, args, input, meanwhile);

/** Resolves once the program, from now on, has written something that contains `text`. */
export function written(child: ChildProcessWithoutNullStreams, text = '', stream: 'stdout' | 'stderr' = 'stdout'): Promise<void> {
  return new Promise((resolve, reject) => {
    let seen = '';
    child[stream].on('data', (chunk: string) => {
      seen += chunk;
      if (seen.includes(text)) resolve();
    });
    child.on('close', () =>
      reject(new Error(`the program ended before it wrote ${JSON.stringify(text)}; it wrote ${JSON.stringify(seen)}`)),
    );
  });
}

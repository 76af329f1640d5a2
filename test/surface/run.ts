// Runs programs as a user would. In: a command line, what is typed. Out: exit code and what was printed.
import { spawn } from 'node:child_process';
import path from 'node:path';

export const root = path.join(__dirname, '..', '..');
export const starter = path.join(root, 'models', 'starter');

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

export function run(
  args: string[],
  options: { input?: string; onOutput?: (text: string, kill: (signal: NodeJS.Signals) => void) => void } = {},
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: root, env: { ...process.env, NO_COLOR: '1' }, timeout: 60_000 });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      stdout += text;
      options.onOutput?.(stdout, (signal) => child.kill(signal));
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
    child.stdin.end(options.input ?? '');
  });
}

export const cli = (args: string[], options?: Parameters<typeof run>[1]) =>
  run([path.join(root, 'dist', 'cli', 'main.js'), ...args], options);

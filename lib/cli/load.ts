// Loads the model of a command and lets go of it afterwards. In: a directory, options, the work. Out: the work done, or an error.
import type { LoadOptions, Model } from '../index';
import { loadingBar } from './progress';

/** Exit code of a program that Ctrl-C ended, as shells count: 128 + SIGINT. */
export const interrupted = 130;

/**
 * Runs `work` with a loaded model and closes the model whatever happens. Ctrl-C while loading ends the load; then `work` never runs.
 * The engine is loaded here and not at the top, so that `--help` also works where its addon does not.
 */
export async function withModel(directory: string, options: LoadOptions, work: (model: Model) => Promise<void>): Promise<void> {
  const { loadModel } = await import('../index.js');
  const bar = loadingBar();
  const abort = new AbortController();
  const stop = () => abort.abort();
  let model: Model;
  process.once('SIGINT', stop);
  try {
    model = await loadModel(directory, { ...options, signal: abort.signal, onProgress: bar.report });
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    process.exitCode = interrupted;
    return;
  } finally {
    process.off('SIGINT', stop);
    bar.end();
  }
  try {
    await work(model);
  } finally {
    await model.close();
  }
}

/** Writes to standard output, waiting for a reader that is slow. */
export function write(text: string): Promise<void> {
  return new Promise((resolve) => (process.stdout.write(text) ? resolve() : process.stdout.once('drain', resolve)));
}

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
  const model = await untilInterrupted(async (signal) => {
    try {
      return await loadModel(directory, { ...options, signal, onProgress: bar.report });
    } finally {
      bar.end();
    }
  });
  if (!model) return;
  try {
    await work(model);
  } finally {
    await model.close();
  }
}

/** Gives what `work` gives; or undefined, and exit code 130, when Ctrl-C fired its signal and so ended it. */
export async function untilInterrupted<Result>(work: (signal: AbortSignal) => Promise<Result>): Promise<Result | undefined> {
  const abort = new AbortController();
  const stop = () => abort.abort();
  process.once('SIGINT', stop);
  try {
    return await work(abort.signal);
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    process.exitCode = interrupted;
    return undefined;
  } finally {
    process.off('SIGINT', stop);
  }
}

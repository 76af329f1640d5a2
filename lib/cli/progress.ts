// A progress bar while a model loads, on terminals only. In: load progress. Out: a bar on standard error, or nothing.
import { SingleBar } from 'cli-progress';
import type { LoadProgress } from '../options';
import { bytes } from './format';

/** `report` goes to loadModel's onProgress; `end` removes the bar, also after a failure. */
export function loadingBar(): { report: ((progress: LoadProgress) => void) | undefined; end(): void } {
  if (!process.stderr.isTTY) return { report: undefined, end: () => {} };
  const bar = new SingleBar({
    format: 'loading [{bar}] {percentage} % of {size} · {eta} s left',
    clearOnComplete: true,
    stream: process.stderr,
  });
  let shown = false;
  return {
    report: ({ loaded, total }) => {
      if (!shown) bar.start(total, loaded, { size: bytes(total) });
      shown = true;
      bar.update(loaded);
    },
    end: () => {
      if (shown) bar.stop();
    },
  };
}

// Progress bars, on terminals only. In: what is done and what there is to do. Out: a bar on standard error, or nothing.
import { SingleBar } from 'cli-progress';
import type { LoadProgress } from '../options';
import { bytes } from './format';

function barOn(format: string): SingleBar {
  return new SingleBar({ format, clearOnComplete: true, hideCursor: true, stream: process.stderr });
}

/** `report` goes to loadModel's onProgress; `end` removes the bar, also after a failure. */
export function loadingBar(): { report: ((progress: LoadProgress) => void) | undefined; end(): void } {
  if (!process.stderr.isTTY) return { report: undefined, end: () => {} };
  const bar = barOn('loading [{bar}] {done} of {size} · {speed}/s');
  const started = performance.now();
  let shown = false;
  return {
    report: ({ loaded, total }) => {
      const seconds = Math.max(0.001, (performance.now() - started) / 1000);
      const fields = { done: bytes(loaded), size: bytes(total), speed: bytes(loaded / seconds) };
      if (!shown) bar.start(total, loaded, fields);
      shown = true;
      bar.update(loaded, fields);
    },
    end: () => {
      if (shown) bar.stop();
    },
  };
}

/** Counts units of a long measurement. */
export function countingBar(total: number): { step(what: string): void; end(): void } {
  if (!process.stderr.isTTY) return { step: () => {}, end: () => {} };
  const bar = barOn('measuring [{bar}] {value} of {total} · {what}');
  bar.start(total, 0, { what: '' });
  return { step: (what) => bar.increment({ what }), end: () => bar.stop() };
}

/** Counts work of a size that becomes known on the way, with the time left. */
export function remainingBar(name: string): { update(done: number, total: number, what: string): void; end(): void } {
  if (!process.stderr.isTTY) return { update: () => {}, end: () => {} };
  const bar = barOn(`${name} [{bar}] {percentage} % · {eta_formatted} left · {what}`);
  bar.start(1, 0, { what: '' });
  return {
    update: (done, total, what) => {
      if (bar.getTotal() !== total) bar.start(total, done, { what });
      bar.update(done, { what });
    },
    end: () => bar.stop(),
  };
}

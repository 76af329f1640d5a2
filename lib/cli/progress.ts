// Progress bars, on terminals only. In: what is done and what there is to do. Out: a bar on standard error, or nothing.
import { SingleBar } from 'cli-progress';
import type { LoadProgress } from '../options';
import { bytes } from './format';

const barWidth = 40;

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

/** Counts work of a size that becomes known on the way (0 until then), with the time left. */
export function remainingBar(name: string): { update(done: number, total: number, what: string): void; end(): void } {
  if (!process.stderr.isTTY) return { update: () => {}, end: () => {} };
  let line = '';
  const bar = new SingleBar({ format: () => line, clearOnComplete: true, hideCursor: true, stream: process.stderr });
  let known: { at: number; done: number } | undefined; // when the total became known; work of an earlier run is done by then
  bar.start(1, 0);
  return {
    update: (done, total, what) => {
      const now = performance.now();
      if (total > 0) known ??= { at: now, done };
      const { at, done: before } = known ?? { at: now, done };
      line = remainingLine(name, { done, total, seconds: (now - at) / 1000, before, what });
      bar.update(done);
    },
    end: () => bar.stop(),
  };
}

/**
 * `measuring [=====-----] 50 % · 3 min left · what`; no bar while the total is not known, no time while there is nothing to tell it from.
 * `before` was done when the `seconds` began.
 */
export function remainingLine(
  name: string,
  { done, total, seconds, before, what }: { done: number; total: number; seconds: number; before: number; what: string },
): string {
  if (total <= 0) return `${name} · ${what}`;
  const share = Math.min(1, done / total);
  const filled = Math.round(share * barWidth);
  const left = done > before && seconds >= 1 ? ` · ${duration((seconds * (total - done)) / (done - before))} left` : '';
  return `${name} [${'='.repeat(filled)}${'-'.repeat(barWidth - filled)}] ${Math.floor(share * 100)} %${left} · ${what}`;
}

/** '40 s', '3 min', '2 h 5 min'. */
function duration(seconds: number): string {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  const minutes = Math.ceil(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// A merged result of the GPU benchmark, asked by cell. In: the JSON that merge.sh makes. Out: look-ups, and numbers as text.
import fs from 'node:fs';

export const unmeasured = 'not measured yet';

/** Every cell by name; sections that are missing are empty. */
export function readResults(file) {
  const sections = file ? JSON.parse(fs.readFileSync(file, 'utf8')) : {};
  const cells = new Map(Object.values(sections).flatMap((list) => list.map((cell) => [cell.cell, cell])));
  return { sections, cell: (name) => cells.get(name), names: [...cells.keys()] };
}

/** A field of a cell, if it was measured. */
export const numberOf = (results, name, field = 'us') => {
  const value = results.cell(name)?.[field];
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
};

const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;

/** Why a cell has no number. */
export function reasonOf(results, name) {
  const cell = results.cell(name);
  if (!cell) return unmeasured;
  if (cell.error === 'throttled' || cell.error === 'wrong output') return cell.error;
  if (cell.fits === false) {
    const need = cell.bytesNeeded ?? cell.cacheBytesNeeded; // neither: the allocator said so
    return need ? `does not fit (${gigabytes(need)})` : 'does not fit';
  }
  if (/^(not done|its measuring)/.test(cell.error ?? '')) return 'failed'; // it hung, or ended the process
  return cell.error ? 'refused' : unmeasured;
}

/** How many times as fast as the dense cell, whichever of the two was measured first. */
export function timesOf(results, dense, cell) {
  const [slow, fast] = [numberOf(results, dense), numberOf(results, cell)];
  return slow === undefined || fast === undefined ? undefined : slow / fast;
}

/** The same as text, or why there is none. */
export function shownTimes(results, dense, cell, write = ratio) {
  const times = timesOf(results, dense, cell);
  return times === undefined ? reasonOf(results, numberOf(results, cell) === undefined ? cell : dense) : write(times);
}

/** A cell's number as text, or why there is none. */
export function shown(results, name, field, write) {
  const value = numberOf(results, name, field);
  return value === undefined ? reasonOf(results, name) : write(value);
}

export const percent = (value) => `${(value * 100).toFixed(1)} %`;
export const ratio = (value) => `${value.toFixed(3)}x`;
export const plain = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));
export const milliseconds = (us) => `${plain(us / 1000)} ms`;
export const bytes = gigabytes;

// Numbers for people. In: bytes, rates, counts. Out: short texts (1 kB = 1000 B).
import type { Timings, Usage } from '../generation';
import type { CacheBytes } from '../session';

/** The K/V cache is held in pages of so many tokens. */
export const pageTokens = 64;
export const wholePages = (tokens: number) => Math.ceil(tokens / pageTokens) * pageTokens;

/** Decimal units: 1 kB = 1000 B. */
export function bytes(count: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = count;
  let unit = 0;
  // 999.5 would be shown as 1000: the next unit says it better.
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    ++unit;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** '-' for what could not be measured. */
export function rate(perSecond: number): string {
  if (!Number.isFinite(perSecond)) return '-';
  return perSecond >= 99.95 ? perSecond.toFixed(0) : perSecond.toFixed(1);
}

export function milliseconds(ms: number): string {
  return ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms >= 10 ? ms.toFixed(0) : ms.toFixed(1)} ms`;
}

/** '1 token', '2 tokens'. */
export const counted = (count: number, thing: string) => `${count} ${thing}${count === 1 ? '' : 's'}`;

/** What `now` is against `before`: '-25.0 %'. */
export function saving(now: number, before: number): string {
  const percent = before > 0 ? (now / before - 1) * 100 : 0;
  return `${percent === 0 ? '0.0' : percent.toFixed(1)} %`;
}

/**
 * Tokens a second from the first token on, as the caller sees them: steps, text and the way to JavaScript included. undefined below two tokens.
 */
export function seenRate({ completionTokens }: Usage, { totalMs, timeToFirstTokenMs }: Timings): number | undefined {
  const ms = totalMs - timeToFirstTokenMs;
  return completionTokens > 1 && ms > 0 ? ((completionTokens - 1) * 1000) / ms : undefined;
}

/** The line behind `--stats`. */
export function statsLine(usage: Usage, timings: Timings, cache: CacheBytes, about: string[]): string {
  const [held, dense] = [cache.keys + cache.values, cache.denseKeys + cache.denseValues];
  const seen = seenRate(usage, timings);
  return [
    counted(usage.completionTokens, 'token'),
    ...(seen === undefined ? [] : [`${rate(seen)} tokens/s`]),
    `first token ${milliseconds(timings.timeToFirstTokenMs)}`,
    `K/V cache ${bytes(held)} (dense ${bytes(dense)}, ${saving(held, dense)})`,
    ...about,
  ].join(' · ');
}

/** Rows of cells as aligned columns: the first to the left, the others to the right. A row of one cell is a title: it widens no column. */
export function table(rows: string[][]): string {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => (row.length > 1 ? (row[column]?.length ?? 0) : 0)))) ?? [];
  const line = (row: string[]) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ');
  return rows.map((row) => line(row).trimEnd()).join('\n');
}

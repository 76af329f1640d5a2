// The paper's tables as Markdown. In: what `evaluate` measured, published figures, the share of the K/V cache saved. Out: one table.

import { mainFigure } from '../../dist/evaluate/figure_text.js';
import { isGuessing, row, signed } from '../accuracy_study/report.mjs';

/** The evaluation sets, in the paper's order. */
export const sets = ['piqa', 'hellaswag', 'arc_challenge', 'arc_easy', 'boolq'];
const titles = { piqa: 'PIQA', hellaswag: 'HellaSwag (norm)', arc_challenge: 'ARC-C (norm)', arc_easy: 'ARC-E', boolq: 'BoolQ' };

/** With as many digits as were published, one at least. */
const digitsOf = (value) => Math.max(1, String(value).split('.')[1]?.length ?? 0);

function publishedRow(published, name, tasks) {
  const figures = name === 'dense' ? published.accuracy : published[name];
  const cells = tasks.map(({ task }) => {
    const value = figures[task];
    if (value === undefined) return '';
    return name === 'dense' ? value.toFixed(digitsOf(value)) : signed(value, digitsOf(value));
  });
  return row([`published ${name}, ${published.name}`, ...cells]);
}

export function markdownOf({ tasks }, published, saved) {
  const mine = tasks.map(({ task, results, items, ...guesses }) => {
    const figures = results.map((result) => result.figures.find(({ name }) => name === mainFigure(task)));
    return { task, figures, items, noSignal: isGuessing(figures[0], guesses) };
  });
  const head = ['', ...mine.map(({ task, noSignal }) => `${titles[task]}${noSignal ? ' (no signal)' : ''}`)];
  const lines = [row(head), row(head.map(() => '---')), row(['items', ...mine.map(({ items }) => items)])];
  const names = tasks[0].results.map(({ attention }) => attention);
  for (const [i, name] of names.entries()) {
    const cells = mine.map(({ figures }) => {
      const { value, standardError, difference } = figures[i];
      return i === 0
        ? `${(value * 100).toFixed(1)} ± ${(standardError * 100).toFixed(1)}`
        : `${signed(difference.value * 100, 1)} ± ${(difference.standardError * 100).toFixed(1)}`;
    });
    lines.push(row([i === 0 ? 'dense, %' : `${name}, points`, ...cells]));
    if (published && (i === 0 || published[name])) lines.push(publishedRow(published, name, mine));
  }
  const percent = (share) => `${(share * 100).toFixed(1)} %`;
  const withQkv = names.includes('chai-qkv');
  lines.push(
    '',
    `K/V cache saved: ${percent(saved)}${withQkv ? `, ${percent(2 * saved)} with chai-qkv, which has chai-static's clusters` : ''}. ` +
      'Differences are to dense on the same items, with paired standard errors.',
  );
  return `${lines.join('\n')}\n`;
}

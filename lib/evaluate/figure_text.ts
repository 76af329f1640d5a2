// Figures for people, the same in the table and in the chart. In: a figure. Out: a short text with its error, and its difference to dense.
import type { Figure, FigureName, TaskName } from './types';

const main: Partial<Record<TaskName, FigureName>> = {
  hellaswag: 'accuracyPerCharacter',
  arc_challenge: 'accuracyPerCharacter',
  perplexity: 'perplexity',
  agreement: 'topOneAgreement',
};
/** The figure that stands for a task: acc_norm where that is what is usually quoted. */
export const mainFigure = (task: TaskName): FigureName => main[task] ?? 'accuracy';

/** Shown in percent. */
export const percentOf = (name: FigureName) => /^accuracy|Agreement$/.test(name);

/** Percent with one decimal, else four significant digits; errors have the value's decimals. */
function fixed({ name, value }: Figure): (number: number) => string {
  const scale = percentOf(name) ? 100 : 1;
  const decimals = percentOf(name) ? 1 : Math.min(5, Math.max(0, 3 - Math.floor(Math.log10(Math.abs(value) || 1))));
  return (number) => (Number.isFinite(number) ? (number * scale).toFixed(decimals) : '-');
}

function differenceText(figure: Figure): string {
  const { difference } = figure;
  if (!difference) return '';
  const text = fixed(figure);
  return ` (${difference.value < 0 ? '' : '+'}${text(difference.value)} ± ${text(difference.standardError)})`;
}

/** '59.0 ± 3.1 (+1.0 ± 0.4)' */
export const figureText = (figure: Figure) =>
  `${fixed(figure)(figure.value)} ± ${fixed(figure)(figure.standardError)}${differenceText(figure)}`;

/** '59.0 (+1.0 ± 0.4)', where the error is drawn. */
export const valueText = (figure: Figure) => `${fixed(figure)(figure.value)}${differenceText(figure)}`;

// The result of an evaluation as a picture. In: an evaluation. Out: an SVG, alone or within a page; each task a panel, error bars of one
// standard error, what guessing gets as a dashed line. Nothing is fetched from anywhere.
import { escaped } from '../calibrate/report/svg';
import { mainFigure, percentOf, valueText } from './figure_text';
import type { Evaluation, Figure, FigureName, TaskResult } from './types';

/** Colours that differ for all kinds of colour vision (Okabe and Ito, 2008). */
const colours = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#888888'];

const width = 760;
const left = 170; // where the axis begins
const right = width - 200; // where it ends; values and their differences stand behind it
const rowHeight = 22;
const headHeight = 36;
const axisHeight = 34;

const words: Record<FigureName, string> = {
  accuracy: 'accuracy, %',
  accuracyPerCharacter: 'accuracy by length, %',
  accuracyPerByte: 'accuracy by bytes, %',
  perplexity: 'perplexity',
  natsPerToken: 'nats a token',
  bitsPerByte: 'bits a byte',
  topOneAgreement: 'same likeliest token as dense, %',
  meanDivergence: 'divergence from dense, nats',
};

/** Light, or dark where the reader wishes so. */
const style = `svg{background:#fff;--ink:#000;--muted:#555;--rule:#ddd}
@media (prefers-color-scheme:dark){svg{background:#0f1216;--ink:#e7eaf0;--muted:#9ba5b5;--rule:#2a313b}}
text{fill:var(--ink)}.muted{fill:var(--muted)}.rule{stroke:var(--rule)}.chance{stroke:var(--muted)}`;

interface Dot {
  attention: string;
  value: number;
  error: number;
  text: string;
}

/** `page`: an HTML page instead of a bare SVG. */
export function evaluationChart(evaluation: Evaluation, title: string, page: boolean): string {
  let y = 34;
  const panels = evaluation.tasks.map((task) => {
    const drawn = panel(task, y);
    y += headHeight + task.results.length * rowHeight + axisHeight;
    return drawn;
  });
  const svg = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y}" width="${width}" height="${y}" font-family="sans-serif" font-size="12" role="img">`,
    `<title>${escaped(title)}</title>`,
    `<style>${style}</style>`,
    `<text x="12" y="22" font-size="15" font-weight="bold">${escaped(title)}</text>`,
    ...panels,
    '</svg>\n',
  ].join('\n');
  if (!page) return svg;
  const head = `<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escaped(title)}</title>`;
  return `<!doctype html>\n<html lang="en"><head>${head}<style>:root{color-scheme:light dark}body{margin:2em}@media (prefers-color-scheme:dark){body{background:#0f1216}}svg{max-width:100%;height:auto}</style></head>\n<body>\n${svg}</body></html>\n`;
}

function panel(task: TaskResult, top: number): string {
  const name = mainFigure(task.task);
  const most = percentOf(name) ? 100 : Number.POSITIVE_INFINITY;
  const dots = task.results.map(({ attention, figures }) =>
    dotOf(
      attention,
      figures.find((figure) => figure.name === name),
    ),
  );
  const guesses = ([['chance', 'end', task.chance] as const, ['commonest answer', 'start', task.majority] as const] as const).flatMap(
    ([word, anchor, share]) => (share === undefined ? [] : [{ word, anchor, value: share * 100 }]),
  );
  const ticks = ticksOf(
    [...dots.flatMap(({ value, error }) => [value - error, value + error]), ...guesses.map(({ value }) => value)],
    most,
  );
  const [low, high] = [ticks[0] as number, ticks.at(-1) as number];
  const x = (value: number) => left + ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (right - left);
  const bottom = top + headHeight + dots.length * rowHeight;
  const file = task.file.split(/[\\/]/).at(-1) ?? '';
  return [
    `<g><text x="12" y="${top + 18}" font-weight="bold">${escaped(task.task === words[name] ? task.task : `${task.task} · ${words[name]}`)}</text>`,
    `<text x="${width - 12}" y="${top + 18}" text-anchor="end" class="muted">${escaped(`${file}, ${task.items} of ${task.available}`)}</text>`,
    ...ticks.map((tick) => axisMark(x(tick), top + headHeight, bottom, tickText(tick, high - low))),
    ...guesses.map(({ word, anchor, value }) => guessLine(word, anchor, x(value), top + headHeight, bottom)),
    ...dots.map((dot, i) => row(dot, top + headHeight + (i + 0.5) * rowHeight, x, colours[i % colours.length] as string)),
    '</g>',
  ].join('\n');
}

function dotOf(attention: string, figure: Figure | undefined): Dot {
  if (!figure) return { attention, value: 0, error: 0, text: '-' };
  const scale = percentOf(figure.name) ? 100 : 1;
  const error = Number.isFinite(figure.standardError) ? figure.standardError * scale : 0;
  return { attention, value: figure.value * scale, error, text: valueText(figure) };
}

function row({ attention, value, error, text }: Dot, y: number, x: (value: number) => number, colour: string): string {
  const from = x(value - error).toFixed(1);
  const to = x(value + error).toFixed(1);
  return [
    `<text x="${left - 12}" y="${y + 4}" text-anchor="end">${escaped(attention.length > 26 ? `…${attention.slice(-25)}` : attention)}</text>`,
    `<path d="M${from} ${y}H${to}M${from} ${y - 4}v8M${to} ${y - 4}v8" stroke="${colour}" stroke-width="1.5" fill="none"/>`,
    `<circle cx="${x(value).toFixed(1)}" cy="${y}" r="4" fill="${colour}"/>`,
    `<text x="${right + 12}" y="${y + 4}">${escaped(text)}</text>`,
  ].join('');
}

function axisMark(x: number, top: number, bottom: number, text: string): string {
  const at = x.toFixed(1);
  return `<path d="M${at} ${top}V${bottom}" class="rule"/><text x="${at}" y="${bottom + 16}" text-anchor="middle" class="muted">${text}</text>`;
}

/** Words stand on the side of the line where the other guess is not. */
function guessLine(word: string, anchor: 'start' | 'end', x: number, top: number, bottom: number): string {
  const at = x.toFixed(1);
  const words = `<text x="${at}" y="${top - 2}" text-anchor="${anchor}" class="muted" font-size="10">${word}</text>`;
  return `<path d="M${at} ${top}V${bottom}" class="chance" stroke-dasharray="4 3"/>${words}`;
}

/** Round numbers around all values, from 0 to `most`: steps of 1, 2 or 5 times a power of ten, about five of them. */
export function ticksOf(values: readonly number[], most = Number.POSITIVE_INFINITY): number[] {
  const finite = values.filter(Number.isFinite);
  let [low, high] = finite.length > 0 ? [Math.min(...finite), Math.max(...finite)] : [0, 1];
  if (high - low < 1e-9 * Math.max(1, Math.abs(high)))
    [low, high] = [low - Math.max(0.5, Math.abs(low) * 0.01), high + Math.max(0.5, Math.abs(high) * 0.01)];
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) as number);
  const [first, last] = [Math.max(0, Math.floor(low / step)), Math.ceil(Math.min(high, most) / step)];
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

const tickText = (value: number, span: number) => value.toFixed(Math.max(0, 1 - Math.floor(Math.log10(span))));

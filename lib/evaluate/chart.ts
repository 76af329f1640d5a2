// The result of an evaluation as a picture. In: an evaluation. Out: an SVG, alone or within a page; each task a panel, error bars of one
// standard error, what guessing gets as a dashed line. Nothing is fetched from anywhere.
import type { AttentionResult, Evaluation, Figure, FigureName, TaskResult } from './types';

/** Colours that differ for all kinds of colour vision (Okabe and Ito, 2008). */
const colours = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000'];

const width = 760;
const left = 190; // where the axis begins
const right = width - 90; // where it ends; values stand behind it
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

interface Dot {
  value: number;
  error: number;
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
    `<rect width="${width}" height="${y}" fill="#fff"/>`,
    `<text x="12" y="22" font-size="15" font-weight="bold">${escaped(title)}</text>`,
    ...panels,
    '</svg>\n',
  ].join('\n');
  if (!page) return svg;
  const head = `<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escaped(title)}</title>`;
  return `<!doctype html>\n<html lang="en"><head>${head}<style>body{margin:2em;background:#fff}svg{max-width:100%;height:auto}</style></head>\n<body>\n${svg}</body></html>\n`;
}

function panel(task: TaskResult, top: number): string {
  const name = task.results[0]?.figures[0]?.name ?? 'accuracy';
  const percent = /^accuracy|Agreement$/.test(name) ? 100 : 1;
  const dots = task.results.map((result) => dotOf(result, name, percent));
  const chance = name === 'accuracy' && task.chance !== undefined ? task.chance * percent : undefined;
  const ticks = ticksOf([...dots.flatMap(({ value, error }) => [value - error, value + error]), ...(chance === undefined ? [] : [chance])]);
  const [low, high] = [ticks[0] as number, ticks.at(-1) as number];
  const x = (value: number) => left + ((value - low) / (high - low)) * (right - left);
  const bottom = top + headHeight + dots.length * rowHeight;
  const file = task.file.split(/[\\/]/).at(-1) ?? '';
  return [
    `<g><text x="12" y="${top + 18}" font-weight="bold">${escaped(`${task.task} · ${words[name]}`)}</text>`,
    `<text x="${width - 12}" y="${top + 18}" text-anchor="end" fill="#555">${escaped(`${file}, ${task.items} of ${task.available}`)}</text>`,
    ...ticks.map((tick) => axisMark(x(tick), top + headHeight, bottom, tickText(tick, high - low))),
    ...(chance === undefined ? [] : [chanceLine(x(chance), top + headHeight, bottom)]),
    ...dots.map((dot, i) =>
      row(dot, task.results[i]?.attention ?? '', top + headHeight + (i + 0.5) * rowHeight, x, colours[i % colours.length] as string),
    ),
    '</g>',
  ].join('\n');
}

function dotOf({ figures }: AttentionResult, name: FigureName, scale: number): Dot {
  const found: Figure | undefined = figures.find((figure) => figure.name === name);
  const error = found?.standardError ?? 0;
  return { value: (found?.value ?? 0) * scale, error: Number.isFinite(error) ? error * scale : 0 };
}

function row({ value, error }: Dot, attention: string, y: number, x: (value: number) => number, colour: string): string {
  const from = x(value - error).toFixed(1);
  const to = x(value + error).toFixed(1);
  return [
    `<text x="${left - 12}" y="${y + 4}" text-anchor="end">${escaped(attention.length > 26 ? `…${attention.slice(-25)}` : attention)}</text>`,
    `<path d="M${from} ${y}H${to}M${from} ${y - 4}v8M${to} ${y - 4}v8" stroke="${colour}" stroke-width="1.5" fill="none"/>`,
    `<circle cx="${x(value).toFixed(1)}" cy="${y}" r="4" fill="${colour}"/>`,
    `<text x="${right + 12}" y="${y + 4}">${Number(value.toPrecision(4))}</text>`,
  ].join('');
}

function axisMark(x: number, top: number, bottom: number, text: string): string {
  const at = x.toFixed(1);
  return `<path d="M${at} ${top}V${bottom}" stroke="#ddd"/><text x="${at}" y="${bottom + 16}" text-anchor="middle" fill="#555">${text}</text>`;
}

function chanceLine(x: number, top: number, bottom: number): string {
  const at = x.toFixed(1);
  return `<path d="M${at} ${top}V${bottom}" stroke="#555" stroke-dasharray="4 3"/><text x="${at}" y="${top - 2}" text-anchor="middle" fill="#555" font-size="10">chance</text>`;
}

/** Round numbers around all values: steps of 1, 2 or 5 times a power of ten, about five of them. */
export function ticksOf(values: readonly number[]): number[] {
  const finite = values.filter(Number.isFinite);
  let [low, high] = finite.length > 0 ? [Math.min(...finite), Math.max(...finite)] : [0, 1];
  if (high - low < 1e-9 * Math.max(1, Math.abs(high)))
    [low, high] = [low - Math.max(0.5, Math.abs(low) * 0.01), high + Math.max(0.5, Math.abs(high) * 0.01)];
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) as number);
  const [first, last] = [Math.floor(low / step), Math.ceil(high / step)];
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

const tickText = (value: number, span: number) => value.toFixed(Math.max(0, 1 - Math.floor(Math.log10(span))));

const marks: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const escaped = (text: string) => text.replace(/[&<>"']/g, (mark) => marks[mark] as string);

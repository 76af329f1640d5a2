// The study's cells as one result, as Markdown and as a chart. In: variants and cells. Out: plain data, tables, an SVG.
import { ticksOf } from '../../dist/evaluate/chart.js';
import { mainFigure } from '../../dist/evaluate/figure_text.js';
import { countsOf } from './variants.mjs';

const allowedLoss = 3.2; // percent of held-out perplexity: the paper's bound on its deviation

const find = ({ figures }, name) => figures.find((figure) => figure.name === name);
const titles = {
  'held-out': 'held-out perplexity',
  templated: 'behind a template, perplexity',
  wikitext2: 'WikiText-2 perplexity',
  agreement: 'same top token, %',
  blimp: 'BLiMP',
  lambada: 'LAMBADA',
};
Object.assign(titles, { arc_easy: 'ARC-Easy', arc_challenge: 'ARC-Challenge', piqa: 'PIQA', hellaswag: 'HellaSwag', boolq: 'BoolQ' });

const savedOf = ({ keys, values, denseKeys, denseValues }) => 1 - (keys + values) / (denseKeys + denseValues);

/** An accuracy within two standard errors of chance, or of always giving the commonest answer; that of a single item has no error. */
export const isGuessing = ({ value, standardError }, { chance = 0, majority = 0 }) =>
  !(value - Math.max(chance, majority) > 2 * standardError);

/** All that was measured, by task and by variant. */
export function resultOf(about, variants, cells) {
  const tasks = {};
  for (const { task, about: of, dense } of cells) {
    const figure = find(dense, mainFigure(of.task));
    const noSignal = mainFigure(of.task).startsWith('accuracy') && isGuessing(figure, of);
    tasks[task] ??= { ...of, noSignal, dense: dense.figures, denseCacheBytes: dense.cacheBytes };
  }
  const measured = variants.filter(({ name }) => cells.some(({ variant }) => variant === name));
  const list = measured.map(({ name, budget, family, tier, about: what, plan, dropped }) => {
    const mine = cells.filter(({ variant }) => variant === name);
    const held = mine.find(({ task }) => task === 'held-out') ?? mine[0];
    const clusters = plan.method === 'explicit' ? undefined : countsOf(plan);
    const results = Object.fromEntries(mine.map(({ task, result }) => [task, { figures: result.figures, cacheBytes: result.cacheBytes }]));
    return { name, budget, family, tier, about: what, clusters, dropped, saved: held && savedOf(held.result.cacheBytes), results };
  });
  return { ...about, tasks, variants: list, best: bestOf(list, tasks) };
}

/**
 * Relative perplexity, percent, with its paired standard error: that of the ratio, by the delta method. What it takes of the two perplexities'
 * covariance follows from their errors and from that of their difference.
 */
export function lossOf({ results }, tasks, task = 'held-out') {
  const figure = results[task] && find(results[task], 'perplexity');
  if (!figure?.difference) return undefined;
  const { value, standardError, difference } = figure;
  const { value: dense, standardError: denseError } = find({ figures: tasks[task].dense }, 'perplexity');
  const covariance = (standardError ** 2 + denseError ** 2 - difference.standardError ** 2) / 2;
  const variance = (standardError / value) ** 2 + (denseError / dense) ** 2 - (2 * covariance) / (value * dense);
  return { value: (value / dense - 1) * 100, standardError: (value / dense) * Math.sqrt(Math.max(0, variance)) * 100 };
}

/** The largest saving whose loss stays within the bound, of the methods themselves. */
function bestOf(variants, tasks) {
  const within = variants.filter((variant) => variant.tier === 0 && (lossOf(variant, tasks)?.value ?? Infinity) <= allowedLoss);
  const best = within.toSorted((a, b) => b.saved - a.saved || lossOf(a, tasks).value - lossOf(b, tasks).value)[0];
  return best && { variant: best.name, saved: best.saved, lossPercent: lossOf(best, tasks).value, allowedLoss };
}

const compact = (figures) =>
  Object.fromEntries(
    figures.map(({ name, value, standardError, difference: d }) => [
      name,
      d ? [value, standardError, d.value, d.standardError] : [value, standardError],
    ]),
  );

/** JSON with six significant digits, innermost objects and lists on one line; a figure is [value, error, difference to dense, paired error]. */
export function textOf({ tasks, variants, ...about }) {
  const listed = {
    ...about,
    figure: 'value, standard error, difference to dense, paired standard error of the difference',
    tasks: Object.fromEntries(Object.entries(tasks).map(([name, of]) => [name, { ...of, dense: compact(of.dense) }])),
    variants: variants.map(({ results, ...of }) => ({
      ...of,
      results: Object.fromEntries(Object.entries(results).map(([task, { figures }]) => [task, compact(figures)])),
    })),
  };
  const rounded = JSON.stringify(listed, (_, value) => (typeof value === 'number' ? Number(value.toPrecision(6)) : value), 1);
  return `${rounded.replace(/[{[]\s([^{}[\]]*)\s[}\]]/g, (whole) => whole.replace(/\s*\n\s*/g, ' '))}\n`;
}

const figuresOf = (compacted) =>
  Object.entries(compacted).map(([name, [value, standardError, ...difference]]) => ({
    ...{ name, value, standardError },
    ...(difference.length > 0 && { difference: { value: difference[0], standardError: difference[1] } }),
  }));

/** The result that `textOf` wrote; tables and charts are made of this one, so that they can be made again from the file. */
export function resultFrom(text) {
  const { tasks, variants, ...about } = JSON.parse(text);
  const tasksWith = Object.entries(tasks).map(([name, of]) => [name, { ...of, dense: figuresOf(of.dense) }]);
  const variantsWith = variants.map(({ results, ...of }) => ({
    ...of,
    results: Object.fromEntries(Object.entries(results).map(([task, figures]) => [task, { figures: figuresOf(figures) }])),
  }));
  return { ...about, tasks: Object.fromEntries(tasksWith), variants: variantsWith };
}

export const signed = (value, digits) => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(digits)}`;
export const row = (cells) => `| ${cells.join(' | ')} |`;
const tableOf = (head, rows) => [row(head), row(head.map(() => '---')), ...rows.map(row)].join('\n');

/** What a table shows of a task: LAMBADA's perplexity tells more than its accuracy where the model is small. */
function columnsOf(tasks) {
  const more = { lambada: 'perplexity', agreement: 'meanDivergence' };
  return Object.entries(tasks).flatMap(([name, { task, noSignal }]) => {
    const marked = `${titles[name]}${noSignal ? ' (no signal)' : ''}`;
    const second = more[name] && { task: name, figure: more[name], title: name === 'lambada' ? 'LAMBADA perplexity' : 'KL, nats' };
    return [{ task: name, figure: mainFigure(task), title: marked }, ...(second ? [second] : [])];
  });
}

function difference(variant, tasks, { task, figure: name }) {
  const figure = variant.results[task] && find(variant.results[task], name);
  if (!figure) return '';
  if (name === 'perplexity') {
    const { value, standardError } = lossOf(variant, tasks, task);
    return `${signed(value, 2)} ± ${standardError.toFixed(2)} %`;
  }
  if (name === 'meanDivergence') return `${figure.value.toFixed(4)} ± ${figure.standardError.toFixed(4)}`;
  if (name === 'topOneAgreement') return `${(figure.value * 100).toFixed(1)} ± ${(figure.standardError * 100).toFixed(1)}`;
  return `${signed(figure.difference.value * 100, 1)} ± ${(figure.difference.standardError * 100).toFixed(1)}`;
}

function denseTable({ tasks }) {
  const rows = columnsOf(tasks).flatMap(({ task, figure: name, title }) => {
    const of = tasks[task];
    if (of.task === 'agreement') return [];
    const figure = of.dense.find((one) => one.name === name);
    const [scale, digits] = name === 'perplexity' ? [1, 2] : [100, 1];
    const guess = name === 'perplexity' ? [] : [of.chance, of.majority].filter((value) => value !== undefined);
    const shown = `${(figure.value * scale).toFixed(digits)} ± ${(figure.standardError * scale).toFixed(digits)}`;
    const unit = name === 'perplexity' ? '' : `, ${name === 'accuracy' ? 'accuracy' : 'acc_norm'} %`;
    return [[title + unit, `${of.items} of ${of.available}`, shown, guess.map((value) => (value * 100).toFixed(1)).join('; ')]];
  });
  return tableOf(['set', 'items', 'dense', 'chance; commonest answer'], rows);
}

/** Tables: what dense gets, then one for each budget with paired differences. */
export function markdownOf(result) {
  const { variants, tasks, best } = result;
  const columns = columnsOf(tasks);
  const parts = [denseTable(result)];
  for (const budget of new Set(variants.map((variant) => variant.budget))) {
    const mine = variants.filter((variant) => variant.budget === budget && Object.keys(variant.results).length > 0);
    if (mine.length === 0) continue;
    const clusters = mine.find(({ family }) => family === 'CHAI')?.clusters;
    parts.push(`### ${budget}${clusters ? `: clusters ${clusters.join(', ')}` : ''}`);
    const head = ['variant', 'K/V bytes', ...columns.map(({ title }) => title)];
    const rows = mine.map((variant) => [
      variant.name.slice(budget.length + 1),
      variant.saved === undefined ? '' : `${signed(-variant.saved * 100, 1)} %`,
      ...columns.map((column) => difference(variant, tasks, column)),
    ]);
    parts.push(tableOf(head, rows));
  }
  if (best)
    parts.push(
      `Largest saving at no more than ${best.allowedLoss} % of held-out perplexity: ${best.variant}, ${(best.saved * 100).toFixed(1)} % of the K/V bytes, ${signed(best.lossPercent, 2)} %.`,
    );
  return `${parts.join('\n\n')}\n`;
}

const colours = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000', '#888888'];
const shownFamilies = ['CHAI', 'CHAI-static', 'drop', 'drop-random', 'random members', 'random counts', 'even counts', 'shared values'];
const ofElbow = ({ budget }) => /elbow/.test(budget); // counts that no search has chosen: beside the line of the others
const words = { drop: 'heads dropped, least needed', 'drop-random': 'heads dropped, random', 'shared values': 'values shared too' };

/** Held-out perplexity lost against K/V bytes saved: a line for each family, a mark for each budget, bars of one paired standard error. */
export function chartOf({ name, variants, tasks }) {
  const points = variants
    .filter((variant) => shownFamilies.includes(variant.family) && lossOf(variant, tasks))
    .map((variant) => ({ family: variant.family, elbow: ofElbow(variant), x: variant.saved * 100, loss: lossOf(variant, tasks) }));
  const [left, right, top, bottom] = [70, 560, 50, 400];
  const xs = ticksOf([0, ...points.map(({ x }) => x)]);
  const ys = ticksOf([0, ...points.flatMap(({ loss }) => [loss.value - loss.standardError, loss.value + loss.standardError])]);
  const scale = (ticks, from, to) => (value) => from + ((value - ticks[0]) / (ticks.at(-1) - ticks[0])) * (to - from);
  const [x, y] = [scale(xs, left, right), scale(ys, bottom, top)];
  const text = (ticks) => ticks.map((tick) => tick.toFixed(Math.max(0, -Math.floor(Math.log10(ticks[1] - ticks[0])))));
  const grid = [
    ...xs.map(
      (tick, i) =>
        `<path d="M${x(tick)} ${top}V${bottom}" stroke="#ddd"/><text x="${x(tick)}" y="${bottom + 18}" text-anchor="middle">${text(xs)[i]}</text>`,
    ),
    ...ys.map(
      (tick, i) =>
        `<path d="M${left} ${y(tick)}H${right}" stroke="#ddd"/><text x="${left - 8}" y="${y(tick) + 4}" text-anchor="end">${text(ys)[i]}</text>`,
    ),
  ];
  const families = shownFamilies.filter((family) => points.some((point) => point.family === family));
  const drawn = families.map((family) => {
    const colour = colours[shownFamilies.indexOf(family)];
    const mine = points.filter((point) => point.family === family).toSorted((a, b) => a.x - b.x);
    const bars = mine
      .map(({ x: at, loss: { value, standardError: e } }) => `M${x(at).toFixed(1)} ${y(value - e).toFixed(1)}V${y(value + e).toFixed(1)}`)
      .join('');
    const dots = mine
      .map(({ x: at, loss, elbow }) => {
        const [fill, more] = elbow ? ['#fff', ` stroke="${colour}" stroke-width="1.5"`] : [colour, ''];
        return `<circle cx="${x(at).toFixed(1)}" cy="${y(loss.value).toFixed(1)}" r="3.5" fill="${fill}"${more}/>`;
      })
      .join('');
    const line = mine
      .filter(({ elbow }) => !elbow)
      .map(({ x: at, loss }) => `${x(at).toFixed(1)},${y(loss.value).toFixed(1)}`)
      .join(' ');
    const place = top + 14 + families.indexOf(family) * 20;
    const key = `<circle cx="${right + 24}" cy="${place - 4}" r="4" fill="${colour}"/><text x="${right + 34}" y="${place}">${words[family] ?? family}</text>`;
    const joined = family.startsWith('random') ? '' : `<polyline points="${line}" stroke="${colour}" fill="none"/>`; // of several draws a budget
    return `${joined}<path d="${bars}" stroke="${colour}"/>${dots}${key}`;
  });
  return [
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 450" width="800" height="450" font-family="sans-serif" font-size="12">',
    '<rect width="800" height="450" fill="#fff"/>',
    `<text x="${left}" y="26" font-size="15" font-weight="bold">${name.replace(/[&<>]/g, ' ')}: what saved K/V bytes cost</text>`,
    ...grid,
    `<text x="${(left + right) / 2}" y="${bottom + 38}" text-anchor="middle">K/V cache saved, %</text>`,
    `<text transform="translate(18 ${(top + bottom) / 2}) rotate(-90)" text-anchor="middle">held-out perplexity lost, %</text>`,
    ...drawn,
    points.some(({ elbow }) => elbow)
      ? `<text x="${right + 20}" y="${top + 34 + families.length * 20}">hollow: the elbows' counts</text>`
      : '',
    '</svg>\n',
  ].join('\n');
}

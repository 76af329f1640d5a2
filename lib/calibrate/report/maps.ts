// Areas: correlations of heads, sizes of clusters, bytes of the K/V cache. In: a calibration. Out: SVG.
import { bytes } from '../../cli/format';
import type { Calibration } from '../types';
import type { Plotting } from './axes';
import { element, hint, label, picture, short } from './svg';

/** Lower ends of the classes of correlation; fine where heads become exchangeable. Below 0 has a class of its own. */
const classes = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95];
const classOf = (value: number) => classes.findLastIndex((least) => value >= least);
const opacity = (index: number) => (index < 0 ? 0.55 : 0.04 + (0.96 * index) / (classes.length - 1));
const paint = (index: number) => ({ class: index < 0 ? 'cell below' : 'cell', 'fill-opacity': opacity(index) });

/** Correlations of one layer's heads, those of a cluster side by side and framed. */
export function correlationMap(correlation: readonly number[], clusterOf: readonly number[], index: number): string {
  const heads = clusterOf.length;
  const order = clusterOf.map((_, head) => head).sort((a, b) => (clusterOf[a] as number) - (clusterOf[b] as number) || a - b);
  const side = Math.max(4, Math.floor(192 / heads));
  const [left, top] = [26, 24];
  const at = (i: number) => (i + 0.5) * side;
  const some = (i: number, size: number) => i % Math.ceil(size / side) === 0; // a label takes `size`
  const names = order.flatMap((head, i) => [
    ...(some(i, 12) ? [label(left - 5, top + at(i) + 3, String(head), { class: 'tick tiny', 'text-anchor': 'end' })] : []),
    ...(some(i, 17) ? [label(left + at(i), top + heads * side + 11, String(head), { class: 'tick tiny', 'text-anchor': 'middle' })] : []),
  ]);
  const clusters = Math.max(...clusterOf) + 1;
  return picture(
    left + heads * side + 8,
    top + heads * side + 18,
    `Layer ${index}: correlation of the attention scores of every two heads`,
    label(left, 13, `Layer ${index}`, { class: 'name' }),
    label(left + heads * side, 13, `${clusters} of ${heads}`, { class: 'chosen', 'text-anchor': 'end' }),
    element('g', { transform: `translate(${left} ${top}) scale(${side})` }, ...cells(correlation, order), ...frames(clusterOf, order)),
    ...names,
  );
}

/** One path a class of correlation: cells of a row that are alike become one rectangle. */
function cells(correlation: readonly number[], order: readonly number[]): string[] {
  const heads = order.length;
  const paths = new Map<number, string>();
  order.forEach((a, row) => {
    const found = order.map((b) => classOf(correlation[a * heads + b] as number));
    for (let from = 0, to = 0; from < heads; from = to) {
      while (to < heads && found[to] === found[from]) ++to;
      paths.set(found[from] as number, `${paths.get(found[from] as number) ?? ''}M${from} ${row}h${to - from}v1h${from - to}z`);
    }
  });
  return [...paths].sort(([a], [b]) => a - b).map(([index, d]) => element('path', { ...paint(index), d }));
}

function frames(clusterOf: readonly number[], order: readonly number[]): string[] {
  const result: string[] = [];
  for (let from = 0, to = 0; from < order.length; from = to) {
    while (to < order.length && clusterOf[order[to] as number] === clusterOf[order[from] as number]) ++to;
    if (to - from > 1) result.push(element('path', { class: 'frame', d: `M${from} ${from}h${to - from}v${to - from}h${from - to}z` }));
  }
  return result;
}

/** The classes of correlation side by side, their lower ends below; first that of all below 0, apart from the others. */
export function correlationLegend(): string {
  const [wide, apart] = [40, 64];
  const box = (index: number, x: number) => element('rect', { ...paint(index), x, y: 4, width: wide - 1, height: 14 });
  const name = (x: number, text: string) => label(x, 32, text, { class: 'tick', 'text-anchor': 'middle' });
  const ends = [...classes, 1].map((least, i) => name(apart + i * wide, String(least)));
  const boxes = classes.map((_, i) => box(i, apart + i * wide));
  const width = apart + classes.length * wide + 10;
  return picture(width, 38, 'Colours of the correlations', box(-1, 2), name(2 + wide / 2, 'below 0'), ...boxes, ...ends);
}

/** How many heads are in the largest cluster, the second, ...: one row a layer. */
export function sizesChart({ layers, model }: Calibration, { scaleLinear, scaleBand }: Plotting): string {
  const high = Math.min(24, Math.max(10, 640 / layers.length));
  const [left, right, top] = [62, 690, 8];
  const bottom = top + layers.length * high;
  const x = scaleLinear([0, model.heads], [left, right]);
  const y = scaleBand([...layers.keys()], [top, bottom]).padding(0.18);
  const rows = layers.map(({ sizes }, i) => {
    let from = 0;
    const parts = sizes.map((size, rank) => {
      const wide = x(from + size) - x(from);
      const part = element(
        'rect',
        {
          class: 'size',
          x: x(from) + 0.75,
          y: y(i) as number,
          width: Math.max(0.5, wide - 1.5),
          height: y.bandwidth(),
          rx: 2,
          'fill-opacity': shade(rank, size),
        },
        hint(`layer ${i}, cluster ${rank + 1} by size: ${size.toFixed(1)} heads`),
      );
      from += size;
      return part;
    });
    return (
      label(left - 8, (y(i) as number) + y.bandwidth() / 2 + 3.5, high < 14 && i % 2 ? '' : `layer ${i}`, {
        class: 'tick',
        'text-anchor': 'end',
      }) + parts.join('')
    );
  });
  const ticks = x
    .ticks(Math.min(8, model.heads))
    .map((tick) => label(x(tick), bottom + 14, String(tick), { class: 'tick', 'text-anchor': 'middle' }));
  return picture(
    720,
    bottom + 36,
    'Sizes of the clusters of each layer',
    ...rows,
    ...ticks,
    label((left + right) / 2, bottom + 28, 'heads', { class: 'axis', 'text-anchor': 'middle' }),
  );
}

/** Heads alone are faint, the largest cluster is full. */
const shade = (rank: number, size: number) => (size <= 1.0001 ? 0.18 : Math.max(0.3, 0.95 - 0.16 * rank));

/** Contexts of powers of two up to the model's, at most six. */
export function contextsOf(contextLength: number): number[] {
  const powers: number[] = [];
  for (let tokens = contextLength; tokens >= 64 && powers.length < 6; tokens = 2 ** Math.ceil(Math.log2(tokens) - 1))
    powers.unshift(tokens);
  return powers.length > 0 ? powers : [contextLength];
}

const pageTokens = 64; // the cache is held in pages of so many tokens

/** Bytes of one session's cache with float16 elements: dense, and what is saved. */
export function memoryChart({ model, losses }: Calibration, { scaleLinear }: Plotting): string {
  const saving = losses.find(({ name }) => name === 'chai')?.keyValueSaving ?? 0;
  const contexts = contextsOf(model.contextLength);
  const dense = (tokens: number) =>
    2 * 2 * model.layers * model.keyValueHeads * model.headDim * Math.ceil(tokens / pageTokens) * pageTokens;
  const [left, right, high] = [92, 470, 46];
  const x = scaleLinear([0, dense(contexts.at(-1) as number)], [left, right]);
  const rows = contexts.map((tokens, i) => {
    const y = 8 + i * high;
    const [whole, kept] = [dense(tokens), dense(tokens) * (1 - saving)];
    const text = `${bytes(kept)} of ${bytes(whole)}, ${bytes(whole - kept)} saved`;
    return [
      label(left - 8, y + 17, `${tokens.toLocaleString('en-US')} tokens`, { class: 'tick strong', 'text-anchor': 'end' }),
      element(
        'rect',
        { class: 'ghost', x: left, y, width: Math.max(1, x(whole) - left), height: 26, rx: 3 },
        hint(`dense ${bytes(whole)}`),
      ),
      element('rect', { class: 'bar', x: left, y, width: Math.max(1, x(kept) - left), height: 26, rx: 3 }, hint(`kept ${bytes(kept)}`)),
      label(x(whole) + 8, y + 17, text, { class: 'tick' }),
    ].join('');
  });
  return picture(720, 8 + contexts.length * high, `K/V cache of one session: ${short(saving * 100)} % saved`, ...rows);
}

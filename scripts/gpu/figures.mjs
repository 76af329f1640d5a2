// Charts of a GPU's results. In: results (results.mjs). Out: SVG texts by file name; a chart without a measured cell is not drawn.
import { scaleBand, scaleLinear, scaleLog } from 'd3-scale';
import { numberOf } from './results.mjs';

/** Colours that differ for all kinds of colour vision (Okabe and Ito, 2008). */
const colours = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000', '#888888'];
const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const short = (value) => (value >= 1e4 ? `${Number((value / 1e3).toPrecision(3))}k` : `${Number(value.toPrecision(3))}`);
const box = { left: 64, right: 700, top: 54, bottom: 330 };

function frame({ title, xTitle, yTitle, series }, marks) {
  const keys = series.map(({ name, dashed }, i) => {
    const y = box.top + 10 + i * 19;
    const mark = dashed
      ? `<path d="M716 ${y - 4}h16" stroke="#555" stroke-dasharray="4 3"/>`
      : `<rect x="718" y="${y - 10}" width="11" height="11" fill="${colours[i % colours.length]}"/>`;
    return `${mark}<text x="737" y="${y}">${escaped(name)}</text>`;
  });
  return [
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 384" width="920" height="384" font-family="sans-serif" font-size="12" role="img">',
    `<title>${escaped(title)}</title><rect width="920" height="384" fill="#fff"/>`,
    `<text x="${box.left}" y="24" font-size="15" font-weight="bold">${escaped(title)}</text>`,
    `<text x="${box.left}" y="44" fill="#555">${escaped(yTitle)}</text>`,
    `<text x="${(box.left + box.right) / 2}" y="374" text-anchor="middle" fill="#555">${escaped(xTitle)}</text>`,
    ...marks,
    ...keys,
    '</svg>\n',
  ].join('\n');
}

const gridOf = (y, ticks) =>
  ticks.map(
    (tick) =>
      `<path d="M${box.left} ${y(tick).toFixed(1)}H${box.right}" stroke="#ddd"/>` +
      `<text x="${box.left - 8}" y="${(y(tick) + 4).toFixed(1)}" text-anchor="end">${short(tick)}</text>`,
  );

/** Groups of bars. `series`: { name, values: one a group, undefined where nothing was measured }. `line`: a level drawn across. */
export function barChart({ title, yTitle, xTitle, groups, series, line }) {
  const drawn = series.filter(({ values }) => values.some((value) => value !== undefined));
  if (drawn.length === 0) return undefined;
  const most = Math.max(...drawn.flatMap(({ values }) => values.filter((value) => value !== undefined)), line ?? 0);
  const y = scaleLinear([0, most], [box.bottom, box.top + 6]).nice();
  const group = scaleBand(groups, [box.left, box.right]).paddingInner(0.2).paddingOuter(0.1);
  const bar = scaleBand(
    drawn.map(({ name }) => name),
    [0, group.bandwidth()],
  );
  const bars = drawn.flatMap(({ name, values }, i) =>
    values.map((value, place) => {
      if (value === undefined) return '';
      const x = group(groups[place]) + bar(name);
      const text = `<title>${escaped(`${groups[place]}, ${name}: ${short(value)}`)}</title>`;
      return `<rect x="${x.toFixed(1)}" y="${y(value).toFixed(1)}" width="${Math.max(1, bar.bandwidth() - 1).toFixed(1)}" height="${(box.bottom - y(value)).toFixed(1)}" fill="${colours[i % colours.length]}">${text}</rect>`;
    }),
  );
  const names = groups.map(
    (name) =>
      `<text x="${(group(name) + group.bandwidth() / 2).toFixed(1)}" y="${box.bottom + 18}" text-anchor="middle">${escaped(name)}</text>`,
  );
  const level = line === undefined ? [] : [`<path d="M${box.left} ${y(line)}H${box.right}" stroke="#555" stroke-dasharray="4 3"/>`];
  return frame({ title, xTitle, yTitle, series: drawn }, [...gridOf(y, y.ticks(6)), ...bars, ...level, ...names]);
}

/** Lines over a shared axis. `series`: { name, points: [x, y][], dashed }. */
export function lineChart({ title, yTitle, xTitle, series, logarithmic = false }) {
  const drawn = series.filter(({ points }) => points.length > 0);
  if (drawn.every(({ dashed }) => dashed)) return undefined;
  const of = (axis) => drawn.flatMap(({ points }) => points.map((point) => point[axis]));
  const scale = logarithmic ? scaleLog : scaleLinear;
  const x = scale([Math.min(...of(0)), Math.max(...of(0))], [box.left + 20, box.right - 20]);
  const y = scale([logarithmic ? Math.min(...of(1)) : 0, Math.max(...of(1))], [box.bottom, box.top + 6]).nice();
  const lines = drawn.map(({ points, dashed }, i) => {
    const at = points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`);
    const colour = dashed ? '#555' : colours[i % colours.length];
    const dots = dashed
      ? ''
      : at.map((place) => `<circle cx="${place.split(',')[0]}" cy="${place.split(',')[1]}" r="3.5" fill="${colour}"/>`).join('');
    return `<polyline points="${at.join(' ')}" stroke="${colour}" fill="none"${dashed ? ' stroke-dasharray="4 3"' : ''}/>${dots}`;
  });
  const ticks = [...new Set(of(0))].sort((a, b) => a - b);
  const names = ticks.map((tick) => `<text x="${x(tick).toFixed(1)}" y="${box.bottom + 18}" text-anchor="middle">${tick}</text>`);
  const levels = logarithmic ? y.ticks().filter((tick) => /^[125]/.test(String(tick).replace(/^[0.]+/, ''))) : y.ticks(5);
  return frame({ title, xTitle, yTitle, series: drawn }, [...gridOf(y, levels), ...lines, ...names]);
}

const sizes = ['1x2048', '1x8192', '1x32768', '8x2048', '8x8192', '8x32768', '32x2048', '32x8192', '64x2048', '64x8192'];
const counts = [1, 4, 8, 16, 32];
const mha = 'decode/32/32x128';

function decodeBandwidth(results) {
  const ceiling = numberOf(results, 'read', 'gbPerSecond');
  if (ceiling === undefined) return undefined;
  const share = (cell) => {
    const value = numberOf(results, cell, 'gbPerSecond');
    return value === undefined ? undefined : (value / ceiling) * 100;
  };
  const series = [
    { name: 'dense 32/32', cell: (size) => `${mha}/${size}/32` },
    { name: '4 scores of 32', cell: (size) => `${mha}/${size}/4` },
    { name: 'grouped 32/8', cell: (size) => `decode/32/8x128/${size}/32` },
    { name: 'PyTorch flash', cell: (size) => `baseline/${mha}/${size}/flash` },
    { name: 'PyTorch cuDNN', cell: (size) => `baseline/${mha}/${size}/cudnn` },
  ];
  return barChart({
    title: 'Decode attention: share of the read ceiling',
    yTitle: `bytes of K and V a second, % of ${short(ceiling)} GB/s measured`,
    xTitle: 'batch x context',
    groups: sizes,
    series: series.map(({ name, cell }) => ({ name, values: sizes.map((size) => share(cell(size))) })),
    line: 100,
  });
}

function decodeRatio(results) {
  const series = ['1x2048', '8x8192', '64x2048', '1x32768'].map((size) => ({
    name: size,
    points: counts.flatMap((count) => {
      const [dense, clustered] = [numberOf(results, `${mha}/${size}/32`), numberOf(results, `${mha}/${size}/${count}`)];
      return dense === undefined || clustered === undefined ? [] : [[count, dense / clustered]];
    }),
  }));
  const ideal = { name: 'ideal, 64 / (k + 32)', dashed: true, points: counts.map((count) => [count, 64 / (count + 32)]) };
  return lineChart({
    title: 'Decode attention: dense over clustered',
    yTitle: 'times as fast as our own dense kernel',
    xTitle: 'scores kept, k of 32 heads',
    series: [...series, ideal],
  });
}

function prefill(results) {
  const groups = ['1x2048', '8x2048', '1x8192', '1x32768'];
  const series = [
    ['dense', (size) => [`prefill/32/32x128/${size}/32`, 'tflopExecuted']],
    ['4 scores, executed', (size) => [`prefill/32/32x128/${size}/4`, 'tflopExecuted']],
    ['4 scores, dense-equivalent', (size) => [`prefill/32/32x128/${size}/4`, 'tflopDenseEquivalent']],
    ['dense, Hopper kernels', (size) => [`prefill-sm90/32/32x128/${size}/32`, 'tflopExecuted']],
    ['4 scores, Hopper, executed', (size) => [`prefill-sm90/32/32x128/${size}/4`, 'tflopExecuted']],
    ['PyTorch flash', (size) => [`baseline/prefill/32/32x128/${size}/flash`, 'tflop']],
    ['PyTorch cuDNN', (size) => [`baseline/prefill/32/32x128/${size}/cudnn`, 'tflop']],
  ];
  return barChart({
    title: 'Prefill attention, causal, bfloat16',
    yTitle: 'TFLOP/s',
    xTitle: 'batch x prompt',
    groups,
    series: series.map(([name, cell]) => ({ name, values: groups.map((size) => numberOf(results, ...cell(size))) })),
  });
}

const engines = [
  ['dense', ''],
  ['published', ''],
  ['eager', 'baseline/'],
  ['sdpa', 'baseline/'],
  ['compile', 'baseline/'],
];
const words = { eager: 'transformers eager', sdpa: 'transformers sdpa', compile: 'torch.compile', published: 'CHAI, published counts' };

function steps(results) {
  const groups = ['1x16', '1x2048', '1x8192', '8x2048', '8x8192', '32x2048', '64x2048'];
  return barChart({
    title: 'LLaMA-7B shape, float16: time per token',
    yTitle: 'milliseconds a step',
    xTitle: 'batch x context',
    groups,
    series: engines.map(([name, prefix]) => ({
      name: words[name] ?? name,
      values: groups.map((size) => {
        const us = numberOf(results, `${prefix}step/${name}/${size}`);
        return us === undefined ? undefined : us / 1000;
      }),
    })),
  });
}

function first(results) {
  const prompts = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768];
  return lineChart({
    title: 'LLaMA-7B shape, float16: time to first token',
    yTitle: 'milliseconds',
    xTitle: 'prompt, tokens',
    logarithmic: true,
    series: engines.map(([name, prefix]) => ({
      name: words[name] ?? name,
      points: prompts.flatMap((tokens) => {
        const us = numberOf(results, `${prefix}first/${name}/${tokens}`);
        return us === undefined ? [] : [[tokens, us / 1000]];
      }),
    })),
  });
}

/** Name (without .svg), words for those who see no picture, drawing. */
export function figuresOf(results) {
  const all = [
    ['decode-bandwidth', 'Decode attention: share of the read ceiling by batch and context', decodeBandwidth],
    ['decode-ratio', 'Decode attention: dense over clustered by scores kept, beside the ideal', decodeRatio],
    ['prefill', 'Prefill attention: TFLOP/s by prompt', prefill],
    ['step', 'Whole model: time per token by batch and context', steps],
    ['first-token', 'Whole model: time to first token by prompt', first],
  ];
  return all.map(([name, about, draw]) => ({ name, about, svg: draw(results) }));
}

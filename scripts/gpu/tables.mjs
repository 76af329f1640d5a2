// Tables of a GPU's results. In: results (results.mjs). Out: Markdown; what was not measured is said.
import { bytes, milliseconds, numberOf, percent, plain, ratio, reasonOf, shown, shownTimes, timesOf, unmeasured } from './results.mjs';

const row = (cells) => `| ${cells.join(' | ')} |`;
const tableOf = (head, rows) => [row(head), row(head.map(() => '---')), ...rows.map(row)].join('\n');
const mha = 'decode/32/32x128';
/** scaled_dot_product_attention by backend. */
const backends = ['flash', 'cudnn', 'efficient'];
const torchCell = (kind, size, backend) => `baseline/${kind}/32/32x128/${size}/${backend}`;
const torchHead = ['PyTorch flash', 'PyTorch cuDNN', 'PyTorch efficient'];

/** A section of one table and a line below it, or one line that says it is not there yet. */
function section(title, head, rows, measured, note) {
  const table = tableOf(head, rows);
  return `### ${title}\n\n${measured ? [table, note].filter(Boolean).join('\n\n') : `${unmeasured[0].toUpperCase()}${unmeasured.slice(1)}.`}`;
}

function ratioBar(results, dense, clustered, ideal, share) {
  const times = timesOf(results, dense, clustered);
  return [times, shownTimes(results, dense, clustered, (value) => `${ratio(value)} (ideal ${ratio(ideal)})`), share * ideal];
}

/** [what, bar as text, value, as text, least value that reaches it] */
function barsOf(results) {
  const ceiling = numberOf(results, 'read', 'gbPerSecond');
  const share = (cell, least) => {
    const value = numberOf(results, cell, 'gbPerSecond');
    return value === undefined || !ceiling ? [undefined, reasonOf(results, cell)] : [value / ceiling, percent(value / ceiling), least];
  };
  const number = (cell, field, least, write) => {
    const value = numberOf(results, cell, field);
    return value === undefined ? [undefined, reasonOf(results, cell)] : [value, write(value), least];
  };
  const prefillBest = (prefix, least) => {
    const found = ['1x8192', '1x32768'].map((size) => numberOf(results, `${prefix}/32/32x128/${size}/32`, 'tflopExecuted'));
    const most = Math.max(...found.filter((value) => value !== undefined));
    return Number.isFinite(most) ? [most, `${plain(most)} TFLOP/s`, least] : [undefined, unmeasured];
  };
  const gain = (cell) => {
    const dense = cell.replace('/published/', '/dense/');
    const share = (times) => (times - 1) / (results.cell(cell).idealRatio - 1);
    const times = timesOf(results, dense, cell);
    return [times && share(times), shownTimes(results, dense, cell, (value) => percent(share(value))), 0.85];
  };
  const baseline = (kind, ours, least) => {
    const [theirs, mine] = [numberOf(results, `baseline/${kind}`), numberOf(results, ours)];
    return theirs === undefined || mine === undefined ? [undefined, unmeasured] : [theirs / mine, ratio(theirs / mine), least];
  };
  const prefillRatio = () => {
    const cells = [32, 4].map((count) => `prefill/32/32x128/1x8192/${count}`);
    return [timesOf(results, ...cells), shownTimes(results, ...cells), 1.25];
  };
  const membership = () => {
    const value = numberOf(results, 'membership/2048', 'shareOfFirstToken');
    return value === undefined ? [undefined, unmeasured] : [-value, percent(value), -0.02];
  };
  return [
    ['decode attention, 64x2k, dense', '90 % of the read ceiling', ...share(`${mha}/64x2048/32`, 0.9)],
    ['decode attention, 8x8k, dense', '90 %', ...share(`${mha}/8x8192/32`, 0.9)],
    ['decode attention, 1x32k, dense', '80 %', ...share(`${mha}/1x32768/32`, 0.8)],
    ['decode attention, 64x2k, grouped 32/8', '85 %', ...share('decode/32/8x128/64x2048/32', 0.85)],
    ['decode attention, 8x8k, grouped 32/8', '85 %', ...share('decode/32/8x128/8x8192/32', 0.85)],
    ['4 scores of 32 over dense, 64x2k', '0.9 of the ideal', ...ratioBar(results, `${mha}/64x2048/32`, `${mha}/64x2048/4`, 64 / 36, 0.9)],
    ['4 scores of 32 over dense, 8x8k', '0.9 of the ideal', ...ratioBar(results, `${mha}/8x8192/32`, `${mha}/8x8192/4`, 64 / 36, 0.9)],
    ['7B, batch 1, near context 0', '277 tokens/s', ...number('step/dense/1x16', 'tokensPerSecond', 277, plain)],
    ['7B, batch 1, 2k', '256 tokens/s', ...number('step/dense/1x2048', 'tokensPerSecond', 256, plain)],
    ['gain of the whole step, 1x2k', '85 % of the ideal gain', ...gain('step/published/1x2048')],
    ['gain of the whole step, 8x8k', '85 %', ...gain('step/published/8x8192')],
    ['gain of the whole step, 64x2k', '85 %', ...gain('step/published/64x2048')],
    ['gain to the first token, 2k', '85 %', ...gain('first/published/2048')],
    ['prefill attention, kernel for every GPU, 8k or more', '300 TFLOP/s', ...prefillBest('prefill', 300)],
    ['prefill attention, kernels for Hopper, 8k or more', '500 TFLOP/s', ...prefillBest('prefill-sm90', 500)],
    ['prefill, 4 scores of 32 over dense, 8k', '1.25x', ...prefillRatio()],
    ['first token at 2048 over eager attention in transformers', '1.73x', ...baseline('first/eager/2048', 'first/published/2048', 1.73)],
    ['time per token, 1x2k, over eager attention in transformers', '5x', ...baseline('step/eager/1x2048', 'step/published/1x2048', 5)],
    ['membership, of the time to first token at 2048', 'at most 2 %', ...membership()],
  ];
}

function barsTable(results) {
  const rows = barsOf(results).map(([what, bar, value, text, least]) => {
    const reached = value === undefined ? '' : value >= least ? 'yes' : 'no';
    return [what, bar, text, reached];
  });
  return `### Bars\n\n${tableOf(['what', 'bar', 'measured', 'reached'], rows)}`;
}

const decodeSizes = [1, 8, 32, 64].flatMap((batch) => [2048, 8192, 32768].map((context) => `${batch}x${context}`));

const scoreCounts = [16, 8, 4, 1];
const someDecode = (results) => decodeSizes.some((size) => results.cell(`${mha}/${size}/32`));

function decodeTable(results) {
  const us = (cell) => shown(results, cell, 'us', plain);
  const rows = decodeSizes.map((size) => {
    const own = `${mha}/${size}`;
    const times = (cell) => shownTimes(results, `${own}/32`, cell);
    return [
      size,
      us(`${own}/32`),
      ...scoreCounts.map((count) => times(`${own}/${count}`)),
      `${times(`${own}/published`)}${results.cell(`${own}/published`)?.derived ? ' (derived)' : ''}`,
      ...backends.map((backend) => us(torchCell('decode', size, backend))),
    ];
  });
  const ideal = ['ideal', '', ...scoreCounts.map((count) => ratio(64 / (count + 32))), ratio(1024 / 828), '', '', ''];
  const head = ['batch x context', 'dense, us', ...scoreCounts.map((count) => `${count} of 32`), 'published'];
  return section(
    'Decode attention, one layer, 32 heads of 128, float16: dense over clustered',
    [...head, ...torchHead.map((name) => `${name}, us`)],
    [...rows, ideal],
    someDecode(results),
  );
}

function bandwidthTable(results) {
  const ceiling = numberOf(results, 'read', 'gbPerSecond');
  const rate = (cell) =>
    results.cell(cell)?.derived
      ? 'derived'
      : shown(results, cell, 'gbPerSecond', (value) => `${plain(value)}${ceiling ? ` (${percent(value / ceiling)})` : ''}`);
  const rows = decodeSizes.map((size) => [
    size,
    ...[32, ...scoreCounts, 'published'].map((count) => rate(`${mha}/${size}/${count}`)),
    rate(`decode/32/8x128/${size}/32`),
    ...backends.map((backend) => rate(torchCell('decode', size, backend))),
  ]);
  const head = ['batch x context', 'dense', ...scoreCounts.map((count) => `${count} of 32`), 'published', 'grouped 32/8', ...torchHead];
  return section('The same: GB/s of K and V (of the read ceiling)', head, rows, someDecode(results));
}

function prefillTable(results) {
  const sizes = ['1x2048', '8x2048', '1x8192', '1x32768'];
  const kinds = ['prefill', 'prefill-sm90'].filter((kind) => results.names.some((name) => name.startsWith(`${kind}/`)));
  const flops = (cell, field = 'tflopExecuted') => shown(results, cell, field, plain);
  const both = (dense, cell) => [flops(cell), flops(cell, 'tflopDenseEquivalent'), shownTimes(results, dense, cell)];
  const rows = sizes.flatMap((size) =>
    kinds.map((kind) => {
      const own = `${kind}/32/32x128/${size}`;
      return [
        size,
        kind === 'prefill' ? 'every GPU' : 'Hopper',
        flops(`${own}/32`),
        ...both(`${own}/32`, `${own}/4`),
        ...both(`${own}/32`, `${own}/published`),
        flops(`${kind}/32/8x128/${size}/32`),
        ...backends.map((backend) => flops(torchCell('prefill', size, backend), 'tflop')),
      ];
    }),
  );
  const three = (name) => [`${name}, executed`, `${name}, dense-equivalent`, `${name} over dense`];
  const head = ['batch x prompt', 'kernels', 'dense', ...three('4 of 32'), ...three('published'), 'grouped 32/8', ...torchHead];
  return section('Prefill attention, causal, bfloat16, TFLOP/s', head, rows, kinds.length > 0);
}

const stepSizes = ['1x16', '1x2048', '1x8192', '1x32768', '8x2048', '8x8192', '8x32768', '32x2048', '32x8192', '64x2048', '64x8192'];
const prompts = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768].map(String);
/** What bench/gpu/baselines.py measures of transformers; the rest is not asked of it. */
const steps = ['1x16', '1x2048', '1x8192', '8x2048', '8x8192', '32x2048', '64x2048'];
const asked = {
  step: { eager: steps, sdpa: steps, compile: ['1x2048', '8x2048'] },
  first: { eager: prompts, sdpa: prompts, compile: ['2048'] },
};
const fewCompiled = 'A dash: not asked of it; torch.compile takes a minute for each shape.';

/** Rows of the whole model: dense, published, and transformers three ways. */
function modelRow(results, kind, size, more) {
  const [dense, published] = [`${kind}/dense/${size}`, `${kind}/published/${size}`];
  const theirs = ['eager', 'sdpa', 'compile'].map((name) => {
    const cell = `baseline/${kind}/${name}/${size}`;
    return results.cell(cell) || asked[kind][name].includes(size) ? shown(results, cell, 'us', milliseconds) : '-';
  });
  const gained = shownTimes(results, dense, published, (value) => `${ratio(value)} (${ratio(results.cell(published).idealRatio)})`);
  return [
    size,
    shown(results, dense, 'us', milliseconds),
    shown(results, published, 'us', milliseconds),
    gained,
    ...more(dense, published),
    ...theirs,
  ];
}

function stepTable(results) {
  const more = (dense, published) => [
    ...[dense, published].map((cell) => shown(results, cell, 'tokensPerSecond', plain)),
    shown(results, dense, 'shareOfByteFloor', percent),
    shown(results, published, 'shareOfByteFloor', percent),
  ];
  const head = [
    'batch x context',
    'dense',
    'published',
    'gain (ideal)',
    'dense tokens/s',
    'published tokens/s',
    'dense, of the byte floor',
  ];
  return section(
    'Whole step, LLaMA-7B shape, float16, random weights: time per token',
    [...head, 'published, of it', 'unfused baseline (eager)', 'sdpa', 'torch.compile'],
    stepSizes.map((size) => modelRow(results, 'step', size, more)),
    stepSizes.some((size) => results.cell(`step/dense/${size}`)),
    fewCompiled,
  );
}

/** The same prompts by our own products, and by the prefill kernels for Hopper: at 2048 alone. */
const ways = { own: 'own products', sm90: 'Hopper kernels' };

function firstTable(results) {
  const present = Object.keys(ways).filter((way) => results.names.some((name) => name.startsWith(`first-${way}/`)));
  const more = (_, published) => [
    ...['tflopExecuted', 'tflopDenseEquivalent'].map((field) => shown(results, published, field, plain)),
    ...present.flatMap((way) =>
      ['dense', 'published'].map((plan) => {
        const cell = `first-${way}/${plan}/${published.split('/').at(-1)}`;
        return results.cell(cell) ? shown(results, cell, 'us', milliseconds) : '-';
      }),
    ),
  ];
  const head = ['prompt', 'dense', 'published', 'gain (ideal)', 'published TFLOP/s, executed', 'dense-equivalent'];
  const beside = present.flatMap((way) => [`${ways[way]}: dense`, 'published']);
  const libraryOf = (kind) =>
    results.names
      .filter((name) => name.startsWith(`${kind}/`))
      .map((name) => results.cell(name).library)
      .find(Boolean);
  const used = ['first', 'first-own', 'first-sm90'].map((kind) => [kind, libraryOf(kind)]).filter(([, library]) => library);
  const products = used.length > 0 ? `Large products: ${used.map(([kind, library]) => `${kind}: ${library}`).join('; ')}.` : '';
  return section(
    'Time to first token, the same model',
    [...head, ...beside, 'unfused baseline (eager)', 'sdpa', 'torch.compile'],
    prompts.map((tokens) => modelRow(results, 'first', tokens, more)),
    prompts.some((tokens) => results.cell(`first/dense/${tokens}`)),
    [products, fewCompiled].filter(Boolean).join(' '),
  );
}

function productsTable(results) {
  const names = results.names.filter((name) => name.startsWith('products/'));
  const fields = ['us', 'gbPerSecond', 'tflop'];
  const rows = names.map((name) => [
    ...name.split('/').slice(1),
    ...fields.map((field) => shown(results, name, field, plain)),
    results.cell(name).shareOfReadCeiling === undefined ? '' : percent(results.cell(name).shareOfReadCeiling),
  ]);
  return section('Products of a layer', ['product', 'heads', 'rows', 'us', 'GB/s', 'TFLOP/s', 'of the ceiling'], rows, names.length > 0);
}

function drawsTable(results) {
  const names = results.names.filter((name) => name.startsWith('draws/'));
  const rows = names.map((name) => [...name.split('/').slice(1), shown(results, name, 'us', plain)]);
  return section('Drawing tokens', ['by', 'vocabulary', 'rows', 'us'], rows, names.length > 0);
}

function memoryTable(results) {
  const cells = results.names.filter((name) => name.startsWith('memory/'));
  const rows = cells.map((name) => [
    name.split('/').slice(1).join(', '),
    ...['keyBytes', 'valueBytes', 'cacheBytes', 'reservedBytes', 'smiCacheBytes'].map((field) => shown(results, name, field, bytes)),
  ]);
  const head = ['plan, batch x context', 'K', 'V', 'K/V by the allocator', 'page pool', 'page pool by nvidia-smi'];
  return section('K/V cache', head, rows, cells.length > 0);
}

function testsTable(results) {
  const tests = results.sections.tests ?? [];
  const sections = [...new Set(tests.map(({ section: name }) => name))].map((name) => {
    const mine = tests.filter((test) => test.section === name);
    const sum = (field) => mine.reduce((total, test) => total + test[field], 0);
    const state = mine.some(({ status }) => status !== 0 && status !== 77)
      ? 'failed'
      : mine.every(({ status }) => status === 77)
        ? 'left out'
        : 'passed';
    return [name, state, sum('passed'), sum('failed'), `${sum('seconds')} s`];
  });
  return section('Tests on the device', ['section', '', 'passed', 'failed', 'took'], sections, sections.length > 0);
}

function factsOf(results) {
  const facts = (results.sections.facts ?? []).at(-1);
  if (!facts) return 'No figure of a real GPU exists yet.';
  const cells = results.names.map((name) => results.cell(name));
  const unwatched = cells.filter(({ unwatched: alone, us }) => alone && us).length;
  const slowed = cells.filter(({ error }) => error === 'throttled').map(({ cell }) => cell);
  const torch = (results.sections.baselines ?? []).find(({ torch: version }) => version)?.torch;
  const said = [
    `${facts.device}, ${facts.processors} multiprocessors, driver ${facts.before.driver || 'unknown'}, power limit ${facts.before.wattLimit} W.`,
    `Read ceiling ${shown(results, 'read', 'gbPerSecond', plain)} GB/s, copy ${shown(results, 'copy', 'gbPerSecond', plain)} GB/s (read and written),`,
    `bf16 product of 8192 x 8192 x 8192 through PyTorch${torch ? ` ${torch}` : ''} ${shown(results, 'baseline/matmul/bf16/8192', 'tflop', plain)} TFLOP/s,`,
    `an empty kernel in a graph ${shown(results, 'edge', 'us', plain)} us. Medians; spreads and clocks of every cell stand in the JSON.`,
    slowed.length > 0 ? `Without a figure, since the device was slowed down meanwhile: ${slowed.join(', ')}.` : '',
    unwatched ? `Of ${unwatched} cells nobody knows whether the device was slowed down: there was no nvidia-smi.` : '',
  ];
  return said.filter(Boolean).join('\n');
}

/** The whole part of docs/performance.md; `pictures`: Markdown of the charts. */
export function markdownOf(results, pictures) {
  const tables = [
    barsTable,
    decodeTable,
    bandwidthTable,
    prefillTable,
    stepTable,
    firstTable,
    productsTable,
    drawsTable,
    memoryTable,
    testsTable,
  ];
  return `${[factsOf(results), ...tables.map((table) => table(results)), ...pictures].join('\n\n')}\n`;
}

/** Headline rows for the README. */
export function headlinesOf(results) {
  const device = (results.sections.facts ?? []).at(-1)?.device ?? 'a GPU';
  const pair = (kind, size, field, write) => ['dense', 'published'].map((plan) => shown(results, `${kind}/${plan}/${size}`, field, write));
  const rows = [
    [
      'time per token, batch 1, 2k',
      ...pair('step', '1x2048', 'us', milliseconds),
      shown(results, 'baseline/step/eager/1x2048', 'us', milliseconds),
    ],
    [
      'time per token, batch 8, 8k',
      ...pair('step', '8x8192', 'us', milliseconds),
      shown(results, 'baseline/step/eager/8x8192', 'us', milliseconds),
    ],
    [
      'tokens/s, batch 64, 2k',
      ...pair('step', '64x2048', 'tokensPerSecond', plain),
      shown(results, 'baseline/step/eager/64x2048', 'tokensPerSecond', plain),
    ],
    ['first token of 2048', ...pair('first', '2048', 'us', milliseconds), shown(results, 'baseline/first/eager/2048', 'us', milliseconds)],
    ['K/V cache, batch 64, 2k', ...pair('memory', '64x2048', 'cacheBytes', bytes), ''],
  ];
  return `${tableOf([`LLaMA-7B shape, float16, ${device}`, 'dense', 'CHAI, published counts', 'transformers, eager'], rows)}\n`;
}

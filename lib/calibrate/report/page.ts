// The report: one HTML page that needs nothing else. In: a calibration and the model's name. Out: the page's text.
import { Turn } from '../../turn';
import type { Calibration, MeasuredLoss, StaticRule } from '../types';
import { loadPlotting, type Plotting } from './axes';
import { clustersChart, errorChart, lossChart, stabilityChart } from './curves';
import { correlationLegend, correlationMap, memoryChart, sizesChart } from './maps';
import { style } from './style';
import { escaped } from './svg';

/** A self-contained HTML page: nothing in it is fetched, no script runs. */
export async function calibrationPage(calibration: Calibration, name: string): Promise<string> {
  const plotting = await loadPlotting();
  const title = `How the heads of ${name} cluster`;
  const sections = [
    countsSection(calibration, plotting),
    await errorSection(calibration, plotting),
    await searchSection(calibration, plotting),
    await correlationSection(calibration),
    stabilitySection(calibration, plotting),
    section('sizes', 'Sizes of the clusters', sizesText, `<figure class="panel wide">${sizesChart(calibration, plotting)}</figure>`),
    section(
      'memory',
      'K/V cache of one session',
      memoryText(calibration),
      `<figure class="panel wide">${memoryChart(calibration, plotting)}</figure>`,
    ),
  ];
  const head =
    `<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>${escaped(title)}</title>` +
    `<link rel="icon" href="data:,"><style>${style}</style>`;
  const body = [
    `<h1>${escaped(title)}</h1>`,
    `<p class="lead">${escaped(lead(calibration))}</p>`,
    tiles(calibration),
    losses(calibration),
    ...sections,
  ];
  return `<!doctype html>\n<html lang="en"><head>${head}</head>\n<body><main>\n${body.filter(Boolean).join('\n')}\n</main></body></html>\n`;
}

function section(id: string, title: string, text: string, content: string): string {
  return `<section id="${id}"><h2>${escaped(title)}</h2><p class="note">${escaped(text)}</p>\n${content}</section>`;
}

/** One picture for each of `items`; others get their turn meanwhile. */
async function panels<Item>(items: readonly Item[], draw: (item: Item, index: number) => string): Promise<string> {
  const turn = new Turn(undefined, 'the page');
  const pictures: string[] = [];
  for (const [i, item] of items.entries()) {
    pictures.push(`<figure class="panel">${draw(item, i)}</figure>`);
    await turn.over();
  }
  return `<div class="grid-of">${pictures.join('\n')}</div>`;
}

const percent = (share: number, digits = 1) => `${(share * 100).toFixed(digits)} %`;
const signed = (share: number) => `${share < 0 ? '' : '+'}${percent(share, 2)}`;

function lead({ model, options, text }: Calibration): string {
  const { samples, length, warmupTokens, warmupStart, clustering, heldOut, seed } = options;
  const warmup = warmupStart > 0 ? `tokens ${warmupStart} to ${warmupStart + warmupTokens - 1}` : `the first ${warmupTokens} tokens`;
  return (
    `${model.layers} layers of ${model.heads} heads. ${samples} samples of ${length} tokens out of ${text.windows.toLocaleString('en-US')} ` +
    `(seed ${seed}), ${heldOut} other windows held out for measuring. Grouped by ${clustering === 'kmeans' ? 'k-means' : 'average linkage on cosine distances'}; ` +
    `a sequence finds its membership from ${warmup}.`
  );
}

function tiles({ losses: measured, layers, model, plan }: Calibration): string {
  const used = measured.find(({ name }) => name === plan.method);
  const mean = layers.reduce((sum, { clusters }) => sum + clusters, 0) / layers.length;
  const facts: [string, string][] = [
    [percent(used?.keyValueSaving ?? 0), 'of the K/V cache saved'],
    [signed(used?.increase ?? 0), `perplexity (± ${percent(used?.increaseError ?? 0, 2)}), ${plan.method}`],
    [mean.toFixed(1), `clusters a layer on average, of ${model.heads} heads`],
  ];
  return `<div class="tiles">${facts.map(([value, words]) => `<div class="tile"><b>${escaped(value)}</b><span>${escaped(words)}</span></div>`).join('')}</div>`;
}

const names: Record<string, string> = {
  dense: 'dense',
  chai: 'CHAI: membership found by each sequence',
  'chai-static': 'CHAI-static: the typical membership for all',
  elbow: 'the same method with the counts of the elbows',
};

const staticRules: Record<StaticRule, string> = {
  median: 'the most typical of those the samples found',
  averaged: 'that of attention scores averaged over samples',
};

function losses({ losses: measured, options, search, staticRule }: Calibration): string {
  const rows = measured.map(
    ({ name, keyValueSaving, perplexity, standardError, increase, increaseError }: MeasuredLoss) =>
      `<tr><td>${escaped(names[name] ?? name)}</td><td>${percent(keyValueSaving)}</td><td>${perplexity.toFixed(3)} ± ${standardError.toFixed(3)}</td>` +
      `<td>${name === 'dense' ? '' : `${signed(increase)} ± ${percent(increaseError, 2)}`}</td></tr>`,
  );
  const windows = search ? Math.ceil(options.heldOut / 2) : options.heldOut;
  const head = '<tr><th>attention</th><th>K/V cache saved</th><th>perplexity</th><th>to dense</th></tr>';
  return (
    `<div class="scroll"><table>${head}${rows.join('')}</table></div>` +
    `<p class="note">On ${windows} held-out windows${search ? ' that the search never saw' : ''}; ± is one standard error, paired for differences. ` +
    `The typical membership is ${staticRules[staticRule]}.</p>`
  );
}

function countsSection(calibration: Calibration, plotting: Plotting): string {
  const { search, options } = calibration;
  const text = search
    ? `Found by measured loss to meet the budget (${budgetText(options.budget)}): ${percent(search.keyValueSaving)} saved at ${signed(search.increase)} ` +
      `perplexity on the windows that guided it, after ${search.evaluations} measurements. Orange lines: the elbows.`
    : options.clusters
      ? 'Counts that were given. Orange lines: the elbows.'
      : 'The elbow of each layer’s error curve: where more clusters stop to pay.';
  return section(
    'clusters',
    'Clusters of every layer',
    text,
    `<figure class="panel wide">${clustersChart(calibration, plotting)}</figure>`,
  );
}

function budgetText(budget: Calibration['options']['budget']): string {
  if (!budget) return '';
  return 'keyValueSaving' in budget
    ? `save ${percent(budget.keyValueSaving)} or more`
    : `at most ${signed(budget.perplexityIncrease)} perplexity`;
}

async function errorSection({ layers, search, options }: Calibration, plotting: Plotting): Promise<string> {
  const text =
    'Sum of squared distances of the heads’ attention scores to their nearest centre, mean over samples, in percent of that of one cluster. ' +
    `Filled: the k of the plan${search || options.clusters ? '; hollow: the elbow (Kneedle), where the plan departs from it' : ', the elbow by the Kneedle rule'}.`;
  return section('errors', 'Clustering error', text, await panels(layers, (layer, i) => errorChart(layer, i, plotting)));
}

async function searchSection({ search, layers, model }: Calibration, plotting: Plotting): Promise<string> {
  if (!search) return '';
  const most = Math.max(1e-4, ...search.layers.flatMap(({ loss }) => loss));
  const charts = await panels(search.layers, (layer, index) =>
    lossChart(layer, layers[index]?.clusters ?? model.heads, { index, heads: model.heads, most }, plotting),
  );
  const text =
    'Measured loss above dense attention when one layer alone is reduced to k clusters. Clusters are spent where these curves are steep.';
  return section('losses', 'What each layer costs', text, charts);
}

async function correlationSection({ layers, plan }: Calibration): Promise<string> {
  const maps = await panels(layers, ({ correlation }, i) => correlationMap(correlation, plan.layers[i]?.clusterOf ?? [], i));
  const text =
    'Pearson correlation of the attention scores of every two heads, mean over samples. Heads are in the order of their typical cluster; a frame ' +
    'is a cluster of two or more.';
  return section('correlation', 'Which heads attend alike', text, `<div class="legend">${correlationLegend()}</div>${maps}`);
}

function stabilitySection(calibration: Calibration, plotting: Plotting): string {
  const tokens = calibration.layers[0]?.stability.length ?? 0;
  const from = calibration.options.warmupStart;
  const chart = stabilityChart(calibration, plotting);
  const text =
    `How well the membership found from the first tokens${from > 0 ? ` after token ${from}` : ''} agrees with that found from ${tokens}: 1 is the same, 0 is chance. ` +
    'Thin lines: layers; thick: their mean. Layers without a choice (one cluster, or each head alone) are left out.';
  const content = chart ? `<figure class="panel wide">${chart}</figure>` : '<p>No layer leaves a choice.</p>';
  return section('stability', 'How soon membership is settled', text, content);
}

const sizesText = 'Heads in the largest cluster, the second largest, and so on, mean over samples. Faint: heads that stay alone.';

function memoryText({ losses: measured }: Calibration): string {
  const saving = measured.find(({ name }) => name === 'chai')?.keyValueSaving ?? 0;
  return (
    `float16, in whole pages of 64 tokens, once membership is known. Full colour: what is kept (${percent(1 - saving)}: all values, and the keys of the ` +
    'representatives); faint: what dense attention holds beside it.'
  );
}

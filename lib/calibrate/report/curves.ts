// Curves: clustering error and loss over k, stability over tokens, clusters of all layers. In: a calibration. Out: SVG.
import type { Calibration, LayerCalibration } from '../types';
import { type Box, horizontalAxis, type Plotting, verticalAxis, wholeTicks } from './axes';
import { element, hint, label, picture } from './svg';

const small: Box = { left: 44, right: 232, top: 40, bottom: 138 };
const percent = (share: number) => `${Number((share * 100).toFixed(1))} %`;

/** Clustering error of one layer over k, as a share of that of one cluster, with the k of the plan. */
export function errorChart(layer: LayerCalibration, index: number, { scaleLinear, line }: Plotting): string {
  const { errors, elbow, clusters } = layer;
  const heads = errors.length;
  const whole = errors[0] || 1;
  const x = scaleLinear([1, Math.max(2, heads)], [small.left, small.right]);
  const y = scaleLinear([0, 1], [small.bottom, small.top]);
  const curve =
    line<number>(
      (_, i) => x(i + 1),
      (error) => y(error / whole),
    )(errors) ?? '';
  const value = (k: number) => (errors[k - 1] as number) / whole;
  const dots = errors.map((_, i) =>
    element('circle', { class: 'point', cx: x(i + 1), cy: y(value(i + 1)), r: 6 }, hint(`k = ${i + 1}: ${percent(value(i + 1))}`)),
  );
  return picture(
    240,
    170,
    `Layer ${index}: clustering error falls with the number of clusters; the plan has ${clusters} of ${heads}`,
    label(small.left, 13, `Layer ${index}`, { class: 'name' }),
    label(small.right, 13, `k = ${clusters}`, { class: 'chosen', 'text-anchor': 'end' }),
    verticalAxis({ place: y, ticks: [0, 0.5, 1], text: percent, title: 'error' }, small),
    horizontalAxis({ place: x, ticks: wholeTicks(heads, 4), text: String, title: 'clusters k' }, small),
    element('path', { class: 'drop', d: `M${x(clusters).toFixed(1)} ${y(value(clusters)).toFixed(1)}V${small.bottom}` }),
    element('path', { class: 'curve', d: curve }),
    ...(elbow === clusters ? [] : [element('circle', { class: 'hollow', cx: x(elbow), cy: y(value(elbow)), r: 4 })]),
    element('circle', { class: 'mark', cx: x(clusters), cy: y(value(clusters)), r: 4.5 }),
    ...dots,
  );
}

/** Loss of reducing one layer alone, over k: what a budget was spent by. `most`: nats at the top, the same for all layers. */
export function lossChart(
  { clusters, loss }: { clusters: number[]; loss: number[] },
  chosen: number,
  { index, heads, most }: { index: number; heads: number; most: number },
  { scaleLinear, line }: Plotting,
): string {
  const points = [{ k: heads, nats: 0 }, ...clusters.map((k, i) => ({ k, nats: loss[i] as number }))];
  const x = scaleLinear([1, Math.max(2, heads)], [small.left, small.right]);
  const y = scaleLinear([0, most], [small.bottom, small.top]).nice(3);
  const curve =
    line<{ k: number; nats: number }>(
      ({ k }) => x(k),
      ({ nats }) => y(nats),
    )(points) ?? '';
  return picture(
    240,
    170,
    `Layer ${index}: loss when it alone is reduced to fewer clusters; the plan has ${chosen} of ${heads}`,
    label(small.left, 13, `Layer ${index}`, { class: 'name' }),
    label(small.right, 13, `k = ${chosen}`, { class: 'chosen', 'text-anchor': 'end' }),
    verticalAxis({ place: y, ticks: y.ticks(3), text: (value) => String(Number(value.toPrecision(3))), title: 'nats a token' }, small),
    horizontalAxis({ place: x, ticks: wholeTicks(heads, 4), text: String, title: 'clusters k' }, small),
    element('path', { class: 'drop', d: `M${x(chosen).toFixed(1)} ${small.top}V${small.bottom}` }),
    element('path', { class: 'curve warm', d: curve }),
    ...points.map(({ k, nats }) =>
      element('circle', { class: 'dot warm', cx: x(k), cy: y(nats), r: 3 }, hint(`k = ${k}: ${nats.toFixed(4)} nats a token`)),
    ),
  );
}

/** Agreement of memberships found from fewer tokens with that from all of them. Layers where clustering leaves a choice. */
export function stabilityChart({ layers, options, model }: Calibration, { scaleLinear, line }: Plotting): string | undefined {
  const shown = layers.flatMap(({ stability, clusters }, index) => (clusters > 1 && clusters < model.heads ? [{ stability, index }] : []));
  const tokens = layers[0]?.stability.length ?? 0;
  if (shown.length === 0 || tokens < 2) return undefined;
  const box: Box = { left: 44, right: 700, top: 40, bottom: 260 };
  const mean = Array.from(
    { length: tokens },
    (_, t) => shown.reduce((sum, { stability }) => sum + (stability[t] as number), 0) / shown.length,
  );
  const least = Math.min(0, ...shown.flatMap(({ stability }) => stability));
  const x = scaleLinear([1, tokens], [box.left, box.right]);
  const y = scaleLinear([least, 1], [box.bottom, box.top]);
  const path = line<number>(
    (_, i) => x(i + 1),
    (value) => y(value),
  );
  const w = options.warmupTokens;
  const warm = w > tokens ? [] : [warmupLine(x(w), mean[w - 1] as number, w, box)];
  return picture(
    720,
    300,
    `Agreement of membership found from the first tokens with that of ${tokens} tokens`,
    verticalAxis({ place: y, ticks: y.ticks(5), text: (value) => value.toFixed(1), title: 'agreement (adjusted Rand index)' }, box),
    horizontalAxis({ place: x, ticks: wholeTicks(tokens, 8), text: String, title: 'tokens seen' }, box),
    ...shown.map(({ stability, index }) => element('path', { class: 'thin', d: path(stability) ?? '' }, hint(`layer ${index}`))),
    element('path', { class: 'curve bold', d: path(mean) ?? '' }),
    ...mean.map((value, i) =>
      element('circle', { class: 'point', cx: x(i + 1), cy: y(value), r: 7 }, hint(`${i + 1} tokens: ${value.toFixed(3)}`)),
    ),
    ...warm,
  );
}

function warmupLine(x: number, agreement: number, tokens: number, { top, bottom, right }: Box): string {
  const early = x < right - 220;
  return (
    element('path', { class: 'drop', d: `M${x.toFixed(1)} ${top}V${bottom}` }) +
    label(x + (early ? 7 : -7), bottom - 10, `W = ${tokens}: ${agreement.toFixed(2)} on average`, {
      class: 'chosen',
      'text-anchor': early ? 'start' : 'end',
    })
  );
}

/** Clusters of every layer beside the number of heads. */
export function clustersChart({ layers, model, search, options }: Calibration, { scaleLinear, scaleBand }: Plotting): string {
  const box: Box = { left: 44, right: 700, top: 34, bottom: 190 };
  const x = scaleBand([...layers.keys()], [box.left, box.right]).padding(0.25);
  const y = scaleLinear([0, model.heads], [box.bottom, box.top]);
  const chosen = search || options.clusters; // not the elbows
  const every = Math.ceil(layers.length / 32);
  const bars = layers.map(({ clusters, elbow }, i) => {
    const left = x(i) as number;
    const wide = x.bandwidth();
    const tip = hint(`layer ${i}: ${clusters} clusters${chosen ? `, elbow ${elbow}` : ''}`);
    return [
      element('rect', { class: 'ghost', x: left, y: y(model.heads), width: wide, height: y(0) - y(model.heads) }, tip),
      element('rect', { class: 'bar', x: left, y: y(clusters), width: wide, height: y(0) - y(clusters) }, tip),
      ...(chosen
        ? [element('path', { class: 'notch', d: `M${left.toFixed(1)} ${y(elbow).toFixed(1)}h${wide.toFixed(1)}` }, hint(`elbow ${elbow}`))]
        : []),
      ...(wide >= 14 && clusters < model.heads // a full bar says so itself
        ? [label(left + wide / 2, y(clusters) - 4, String(clusters), { class: 'tick strong', 'text-anchor': 'middle' })]
        : []),
    ].join('');
  });
  const names = layers.flatMap((_, i) =>
    i % every === 0
      ? [label((x(i) as number) + x.bandwidth() / 2, box.bottom + 14, String(i), { class: 'tick', 'text-anchor': 'middle' })]
      : [],
  );
  return picture(
    720,
    222,
    `Clusters of each layer, of ${model.heads} heads`,
    verticalAxis({ place: y, ticks: [0, model.heads / 2, model.heads], text: String, title: 'clusters' }, box),
    ...bars,
    ...names,
    label((box.left + box.right) / 2, box.bottom + 28, 'layer', { class: 'axis', 'text-anchor': 'middle' }),
  );
}

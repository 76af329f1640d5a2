// Frames of charts: scales, grid lines, ticks, axis titles. In: domains and sizes. Out: d3 scales and markup.
import { element, label } from './svg';

type ScaleModule = typeof import('d3-scale');
type ShapeModule = typeof import('d3-shape');
/** d3-scale and d3-shape, which are ES modules: loaded when a page is drawn. */
export type Plotting = Pick<ScaleModule, 'scaleLinear' | 'scaleBand'> & Pick<ShapeModule, 'line'>;

export async function loadPlotting(): Promise<Plotting> {
  const [{ scaleLinear, scaleBand }, { line }] = await Promise.all([import('d3-scale'), import('d3-shape')]);
  return { scaleLinear, scaleBand, line };
}

export interface Box {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

export interface Axis {
  /** Position of a value. */
  place: (value: number) => number;
  ticks: readonly number[];
  text: (value: number) => string;
  title: string;
}

/** Grid lines with their values at the left, and the axis' title above them. */
export function verticalAxis({ place, ticks, text, title }: Axis, { left, right, top }: Box): string {
  const marks = ticks.map(
    (tick) =>
      element('path', { class: 'grid', d: `M${left} ${place(tick).toFixed(1)}H${right}` }) +
      label(left - 6, place(tick) + 3.5, text(tick), { class: 'tick', 'text-anchor': 'end' }),
  );
  return marks.join('') + label(left, top - 7, title, { class: 'axis' });
}

/** Values below the frame, and the axis' title below them. */
export function horizontalAxis({ place, ticks, text, title }: Axis, { left, right, bottom }: Box): string {
  const marks = ticks.map((tick) => label(place(tick), bottom + 14, text(tick), { class: 'tick', 'text-anchor': 'middle' }));
  return marks.join('') + label((left + right) / 2, bottom + 28, title, { class: 'axis', 'text-anchor': 'middle' });
}

/** Whole numbers from 1 to `most`, few enough to be read: both ends, and round steps between. */
export function wholeTicks(most: number, wanted: number): number[] {
  const step = [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100].find((size) => most / size <= wanted) ?? most;
  const between = Array.from({ length: Math.floor(most / step) }, (_, i) => (i + 1) * step);
  return [...new Set([1, ...between, most])].filter((tick) => tick === 1 || tick === most || (tick > step / 2 && most - tick >= step / 2));
}

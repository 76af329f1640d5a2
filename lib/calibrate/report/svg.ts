// SVG as text. In: names, attributes, children. Out: markup with everything escaped; numbers with two decimals at most.

export type Attributes = Record<string, string | number | undefined>;

const marks: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

export const escaped = (text: string) => text.replace(/[&<>"']/g, (mark) => marks[mark] as string);
export const short = (value: number) => String(Math.round(value * 100) / 100);

/** One element; children are markup. */
export function element(name: string, attributes: Attributes, ...children: string[]): string {
  const given = Object.entries(attributes).flatMap(([key, value]) =>
    value === undefined ? [] : [` ${key}="${typeof value === 'number' ? short(value) : escaped(value)}"`],
  );
  return children.length === 0 ? `<${name}${given.join('')}/>` : `<${name}${given.join('')}>${children.join('')}</${name}>`;
}

export const label = (x: number, y: number, text: string, attributes: Attributes = {}) =>
  element('text', { x, y, ...attributes }, escaped(text));

/** A picture that scales with its column. `about` is read aloud, and shown where there is no picture. */
export function picture(width: number, height: number, about: string, ...children: string[]): string {
  const size = { viewBox: `0 0 ${short(width)} ${short(height)}`, width, height };
  return element('svg', { ...size, role: 'img', 'aria-label': about }, ...children);
}

/** What a pointer resting on a mark is told. */
export const hint = (text: string) => element('title', {}, escaped(text));

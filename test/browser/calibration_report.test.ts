// The report of a calibration as a browser shows it: nothing fetched, nothing cut off or overlapping, readable in light and dark, and drawn
// to the numbers.
import type { Browser, Locator, Page } from 'playwright-core';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { calibrationPage } from '../../lib/calibrate/report/page';
import type { Calibration } from '../../lib/calibrate/types';
import { madeUp } from './calibrations';
import { launch, look, probe } from './chromium';

let browser: Browser | undefined;
test.before(async () => {
  browser = await launch();
});
test.after(() => browser?.close());

const sizes = [
  [4, 8, true],
  [32, 32, false],
  [60, 52, true],
  [1, 1, false],
] as const;

test('the page is one file: no script, no address, every section', async () => {
  for (const [layers, heads, budget] of sizes) {
    const html = await calibrationPage(madeUp(layers, heads, budget), '<my & model>');
    assert.not.match(html, /<script|https?:|url\(|@import|src=|NaN|undefined|Infinity/);
    assert.match(html, /&lt;my &amp; model&gt;/);
    for (const id of ['clusters', 'errors', 'correlation', 'stability', 'sizes', 'memory'])
      assert.match(html, new RegExp(`<section id="${id}">`));
    assert.is(/<section id="losses">/.test(html), budget);
    assert.ok(html.length < 4e6, `${html.length} characters`);
  }
});

test('nothing is fetched, cut off or upon another, on wide and narrow screens', async () => {
  if (!browser) return;
  for (const [layers, heads, budget] of sizes)
    for (const width of [1280, 390]) {
      const { page, complaints } = await look(browser, await calibrationPage(madeUp(layers, heads, budget), 'model'), width);
      assert.equal(complaints, [], `${layers} layers, ${width} wide`);
      assert.equal((await probe<string[]>(page, 'clashes()')).slice(0, 5), [], `${layers} layers of ${heads} heads, ${width} wide`);
      await page.close();
    }
});

test('texts can be read in light and in dark', async () => {
  if (!browser) return;
  const html = await calibrationPage(madeUp(4, 8, true), 'model');
  const found: string[] = [];
  for (const scheme of ['light', 'dark'] as const) {
    const { page } = await look(browser, html, 1280, scheme);
    const { least, text, background } = await probe<{ least: number; text: string; background: string }>(page, 'contrast()');
    assert.ok(least >= 4.5, `${scheme}: ${least.toFixed(2)} for "${text}"`);
    found.push(background);
    await page.close();
  }
  assert.equal(found, ['rgb(255, 255, 255)', 'rgb(15, 18, 22)']);
});

type Box = { x: number; y: number; width: number; height: number };

/** What is painted within a part of the page: the colour in the middle of boxes there. */
async function painted(page: Page, part: Box): Promise<(box: Box) => number[]> {
  const clip = { x: Math.floor(part.x), y: Math.floor(part.y), width: Math.ceil(part.width) + 1, height: Math.ceil(part.height) + 1 };
  const png = (await page.screenshot({ clip, fullPage: true })).toString('base64');
  const { width, values } = await probe<{ width: number; values: number[] }>(page, `pixels(${JSON.stringify(png)})`);
  return (box) => {
    const at = 3 * (Math.floor(box.y + box.height / 2 - clip.y) * width + Math.floor(box.x + box.width / 2 - clip.x));
    return values.slice(at, at + 3);
  };
}

async function boxOf(place: Locator): Promise<Box> {
  const box = await place.boundingBox();
  if (!box) throw new Error('not on the page');
  return box;
}

const close = (a: readonly number[], b: readonly number[]) => a.every((value, i) => Math.abs(value - (b[i] as number)) <= 3);
const accent = [0x1d, 0x63, 0xd8]; // of the light page

test('what is painted are the numbers', async () => {
  if (!browser) return;
  const calibration = madeUp(4, 8, false);
  const { page } = await look(browser, await calibrationPage(calibration, 'model'), 1280);
  await barsAreClusters(page, calibration);
  await marksAreErrors(page, calibration);
  await cellsAreCorrelations(page, calibration);
  const tiles = await page.locator('.tile b').allTextContents();
  assert.equal(tiles, ['21.4 %', '+1.23 %', (calibration.layers.reduce((sum, { clusters }) => sum + clusters, 0) / 4).toFixed(1)]);
  assert.equal(await page.locator('tr td:nth-child(2)').allTextContents(), ['0.0 %', '21.4 %', '21.4 %']);
  const kept = await page.locator('#memory .bar').last().boundingBox();
  const whole = await page.locator('#memory .ghost').last().boundingBox();
  assert.ok(Math.abs((kept?.width ?? 0) / (whole?.width ?? 1) - (1 - 0.2137)) < 0.01);
  await page.close();
});

async function barsAreClusters(page: Page, { layers }: Calibration): Promise<void> {
  const colour = await painted(page, await boxOf(page.locator('#clusters svg')));
  const [bars, ghosts] = [await page.locator('#clusters .bar').all(), await page.locator('#clusters .ghost').all()];
  assert.is(bars.length, layers.length);
  for (const [i, { clusters }] of layers.entries()) {
    const [bar, ghost] = [await bars[i]?.boundingBox(), await ghosts[i]?.boundingBox()];
    if (!bar || !ghost) throw new Error(`layer ${i} has no bar`);
    assert.ok(Math.abs(bar.height / ghost.height - clusters / 8) < 0.01, `layer ${i}: ${bar.height} of ${ghost.height}`);
    assert.ok(close(colour(bar), accent), `layer ${i} is painted ${colour(bar)}`);
  }
}

/** The dot of a plan's k stands on the curve at its error. */
async function marksAreErrors(page: Page, { layers }: Calibration): Promise<void> {
  const frames = await page.locator('#errors svg').all();
  for (const [i, { errors, clusters }] of layers.entries()) {
    const grid = (await frames[i]?.locator('.grid').all()) ?? [];
    const [none, , all] = await Promise.all(grid.map((line) => line.evaluate((path) => path.getBoundingClientRect())));
    const mark = await frames[i]?.locator('.mark').boundingBox();
    if (!none || !all || !mark) throw new Error(`layer ${i} has no curve`);
    const share = (none.top - (mark.y + mark.height / 2)) / (none.top - all.top);
    assert.ok(Math.abs(share - (errors[clusters - 1] as number) / (errors[0] as number)) < 0.02, `layer ${i}: ${share}`);
    const along = (mark.x + mark.width / 2 - none.left) / (none.right - none.left);
    assert.ok(Math.abs(along - (clusters - 1) / 7) < 0.02, `layer ${i}: ${along}`);
  }
}

/** The more two heads correlate, the stronger the colour of their cell; heads with themselves are full. */
async function cellsAreCorrelations(page: Page, { layers, plan }: Calibration): Promise<void> {
  const box = await boxOf(page.locator('#correlation figure svg g').first());
  const colour = await painted(page, box);
  const clusterOf = plan.layers[0]?.clusterOf as number[];
  const order = clusterOf.map((_, head) => head).sort((a, b) => (clusterOf[a] as number) - (clusterOf[b] as number) || a - b);
  const side = Math.min(box.width, box.height) / 8;
  const cell = (a: number, b: number) => colour({ x: box.x + b * side, y: box.y + a * side, width: side, height: side });
  const seen: { value: number; red: number }[] = [];
  for (let a = 0; a < 8; ++a)
    for (let b = 0; b <= a; ++b) {
      const value = layers[0]?.correlation[(order[a] as number) * 8 + (order[b] as number)] as number;
      const [red = 0, , blue = 0] = cell(a, b);
      if (a === b) assert.ok(close(cell(a, b), accent));
      if (value < 0) assert.ok(red > blue, `${value} is below 0: orange`);
      else seen.push({ value, red });
    }
  const sorted = seen.sort((x, y) => x.value - y.value);
  for (const [i, { value, red }] of sorted.entries()) assert.ok(i === 0 || red <= (sorted[i - 1]?.red ?? 0) + 1, `${value}: ${red}`);
  assert.ok((sorted[0]?.red ?? 0) - (sorted.at(-1)?.red ?? 0) > 100);
}

test.run();

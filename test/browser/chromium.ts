// A real browser for tests of pages. Out: headless Chromium at work, and what a page asked for from elsewhere.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { type Browser, chromium, type Page } from 'playwright-core';

const probes = `${fs.readFileSync(path.join(__dirname, 'probes.js'), 'utf8')}\nglobalThis.probes = probes; undefined`;
const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

/** Where Chromium is installed; undefined when it is not. In CI it must be. */
export function findChromium(): string | undefined {
  const found = names.map((name) => spawnSync('which', [name], { encoding: 'utf8' }).stdout?.trim()).find(Boolean);
  if (!found && process.env.CI)
    throw new Error('there is no Chromium to look at pages with: apt-get install --no-install-recommends chromium');
  return found;
}

export async function launch(): Promise<Browser | undefined> {
  const executablePath = findChromium();
  if (executablePath) return chromium.launch({ executablePath, args: ['--no-sandbox'] }); // in containers tests run as root
  process.stderr.write('Chromium is not installed: pages are not looked at (apt-get install chromium)\n');
  return undefined;
}

export interface Looked {
  page: Page;
  /** Everything asked for but the page itself, and every complaint of the browser. */
  complaints: string[];
}

/** Shows a page of text. */
export async function look(browser: Browser, html: string, width: number, colorScheme: 'light' | 'dark' = 'light'): Promise<Looked> {
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.message));
  await page.route('**/*', (route) => {
    if (route.request().url() === 'http://page.test/') return route.fulfill({ contentType: 'text/html; charset=utf-8', body: html });
    complaints.push(`asked for ${route.request().url()}`);
    return route.abort();
  });
  await page.goto('http://page.test/');
  await page.evaluate(probes);
  return { page, complaints };
}

/** What the page's own probes (probes.js) say. */
export function probe<Result>(page: Page, call: string): Promise<Result> {
  return page.evaluate(`probes.${call}`) as Promise<Result>;
}

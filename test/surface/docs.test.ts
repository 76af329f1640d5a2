// Runs every code block of README and of the guides as a reader would. In: Markdown. Out: exit code 0 of each, and that no block is of a kind nobody runs.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { cli, root, starter } from './programs';

interface Block {
  language: string;
  source: string;
  line: number;
}

/** Shell lines that other checks run, and where. */
const elsewhere: Record<string, string> = {
  'npm install chai-llm': 'scripts/check_package.cjs',
  'npm ci && npm test': '.ci/run',
};

const guides = path.join(root, 'docs', 'guides');
const pages = [path.join(root, 'README.md'), ...fs.readdirSync(guides).map((name) => path.join(guides, name))];

function blocksOf(page: string): Block[] {
  const text = fs.readFileSync(page, 'utf8');
  return [...text.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)].map(({ index, 1: language = '', 2: source = '' }) => ({
    language,
    source,
    line: text.slice(0, index).split('\n').length,
  }));
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  return port;
}

/** Runs a program until it ends or says that it is listening. */
function start(file: string): Promise<{ child: ChildProcess; ended: boolean; code: number | null; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [file], { cwd: path.dirname(file), timeout: 60_000 });
    let output = '';
    child.on('error', reject);
    child.stderr.on('data', (text) => {
      output += text;
    });
    child.stdout.on('data', (text) => {
      output += text;
      if (/^listening/m.test(output)) resolve({ child, ended: false, code: null, output });
    });
    child.on('close', (code) => resolve({ child, ended: true, code, output }));
  });
}

/** The paths that pages name, as they are here. */
const placed = (text: string, folder: string) =>
  text
    .replaceAll('path/to/model', starter)
    .replaceAll('path/to/text.txt', path.join(root, 'THIRD_PARTY_LICENSES.md'))
    .replaceAll('path/to/plan.json', path.join(folder, 'plan.json'));

/** JavaScript blocks of one page, in order and in one folder; `// name.mjs` in the first line names the file. Servers run to the end of the page. */
async function runPrograms(blocks: Block[], folder: string): Promise<void> {
  const port = await freePort();
  const servers: ChildProcess[] = [];
  const written = blocks.map(({ source, line }) => {
    const file = path.join(folder, /^\/\/ ([\w.-]+\.mjs)\n/.exec(source)?.[1] ?? `line_${line}.mjs`);
    fs.writeFileSync(file, placed(source, folder).replaceAll('3000', String(port)));
    return { file, line, runs: !/\bparentPort\b/.test(source) }; // a worker is started by another block
  });
  try {
    for (const { file, line } of written.filter(({ runs }) => runs)) {
      const { child, ended, code, output } = await start(file);
      if (!ended) servers.push(child);
      else assert.is(code, 0, `line ${line}: ${output}`);
    }
  } finally {
    for (const server of servers) server.kill('SIGTERM');
  }
  for (const server of servers) {
    if (server.exitCode === null && server.signalCode === null) await once(server, 'close');
    assert.is(server.exitCode, 0, 'a server ends by itself on SIGTERM');
  }
}

async function runShell({ source, line }: Block, folder: string): Promise<void> {
  for (const command of source.split('\n').map((text) => text.replace(/(^|\s)#.*/, '').trim())) {
    if (!command || elsewhere[command]) continue;
    const words = [...command.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? '');
    const args = words.map((word) => placed(word, folder));
    if (args[0] === 'npx' && args[1] === 'chai-llm') {
      const { code, err } = await cli(args.slice(2));
      assert.is(code, 0, `line ${line}: ${command}: ${err}`);
    } else if (command.startsWith('npm ci && npm start -- ')) {
      const script: string = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8')).scripts.start;
      const { code, out, err } = await cli([...script.split(' ').slice(2), ...args.slice(6)]);
      assert.is(code, 0, `line ${line}: ${command}: ${err}`);
      assert.ok(out.length > 20, out);
    } else assert.unreachable(`line ${line}: nothing runs \`${command}\``);
  }
}

for (const page of pages)
  test(path.relative(root, page), async () => {
    const blocks = blocksOf(page);
    assert.ok(blocks.length > 0);
    for (const { language, line } of blocks)
      assert.ok(['js', 'sh'].includes(language), `line ${line}: nothing runs a block of \`${language}\``);
    const folder = fs.mkdtempSync(path.join(root, 'build', 'docs-')); // inside the package, where `chai-llm` is the package itself
    try {
      for (const block of blocks.filter(({ language }) => language === 'sh')) await runShell(block, folder);
      await runPrograms(
        blocks.filter(({ language }) => language === 'js'),
        folder,
      );
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  });

test('figures that pages quote are those of the committed study', async () => {
  const { lossOf, markdownOf, resultFrom } = await import(path.join(root, 'scripts', 'accuracy_study', 'report.mjs'));
  const read = (...file: string[]) => fs.readFileSync(path.join(root, ...file), 'utf8');
  const study = (name: string) => resultFrom(read('bench', 'results', `accuracy-${name}.json`));
  const { variants, tasks } = study('novella');
  const [online, fixed] = ['CHAI', 'CHAI-static'].map((method) =>
    variants.find(({ name }: { name: string }) => name === `chai-kv-10 ${method}`),
  );
  const expected = [100 * online.saved, lossOf(online, tasks).value, lossOf(fixed, tasks).value].map((percent) => percent.toFixed(1));
  const quoted = /([\d.]+) % less K\/V cache\s(?:costs|for) ([\d.]+) % of perplexity (?:with CHAI and|\(CHAI\) or) ([\d.]+) %\s/;
  for (const page of [['README.md'], ['models', 'novella', 'README.md']])
    assert.equal(quoted.exec(read(...page))?.slice(1), expected, page.join('/'));
  for (const name of ['novella', 'novel'])
    assert.ok(read('docs', 'accuracy.md').includes(markdownOf(study(name)).trim()), `the tables of ${name} are in docs/accuracy.md`);
});

test('what other checks run is run there', () => {
  for (const [command, file] of Object.entries(elsewhere)) {
    const last = command.split('&&').at(-1)?.trim().split(' ')[1] ?? '';
    assert.match(fs.readFileSync(path.join(root, file), 'utf8'), last === 'install' ? /\.install\(/ : /^npm test/m);
  }
});

test.run();

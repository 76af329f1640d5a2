// The package from outside: one instance through require and import, types for both, loadable in a worker thread.
import fs from 'node:fs/promises';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { root, script, starter } from './programs';

/** A file that names the package as its users do must lie inside it: here the name resolves to the package itself. */
async function inside(name: string, source: string, work: (file: string) => Promise<void>): Promise<void> {
  const folder = await fs.mkdtemp(path.join(root, 'build', 'outside-'));
  const file = path.join(folder, name);
  await fs.writeFile(file, source);
  await work(file).finally(() => fs.rm(folder, { recursive: true }));
}

test('require and import give one instance with the same names', () =>
  inside(
    'both.mjs',
    `import { createRequire } from 'node:module';
     import * as esm from 'chai-llm';
     const cjs = createRequire(import.meta.url)('chai-llm');
     for (const name of Object.keys(cjs)) if (cjs[name] !== esm[name]) throw new Error(name);
     console.log(Object.keys(cjs).sort().join(' '));`,
    async (file) => {
      const { code, out, err } = await script(file, []);
      assert.is(code, 0, err);
      for (const name of ['ChaiError', 'Model', 'Session', 'devices', 'inspectModel', 'loadModel', 'readHeadPlan', 'version'])
        assert.ok(out.split(/\s/).includes(name), name);
    },
  ));

test('a worker thread loads and generates', () =>
  inside(
    'worker.mjs',
    `import { isMainThread, parentPort, Worker } from 'node:worker_threads';
     import { loadModel } from 'chai-llm';
     if (isMainThread) new Worker(new URL(import.meta.url)).on('message', (text) => console.log(text));
     else {
       const model = await loadModel(${JSON.stringify(starter)});
       parentPort.postMessage((await model.complete('Once', { maxTokens: 5 })).usage.completionTokens);
       await model.close();
     }`,
    async (file) => {
      const { code, out, err } = await script(file, []);
      assert.is(code, 0, err);
      assert.is(out, '5\n');
    },
  ));

const program = `import { type Completion, type HeadPlan, loadModel, type Token } from 'chai-llm';
export async function main(): Promise<Completion> {
  const plan: HeadPlan = { format: 'chai-llm/head-plan@1', method: 'chai', layers: [{ clusters: 2 }] };
  const model = await loadModel('x', { device: 'cpu', attention: plan, onProgress: ({ fraction }) => fraction.toFixed() });
  for await (const token of model.generate([1, 2], { maxTokens: 3 })) { const seen: Token = token; seen.text.trim(); }
  // @ts-expect-error: no such option
  model.generate('x', { max_tokens: 3 });
  return model.complete({ messages: [{ role: 'user', content: 'x' }] });
}`;

for (const [name, options] of [
  ['user.cts', ['--module', 'node16']],
  ['user.mts', ['--module', 'nodenext']],
  ['user.ts', ['--module', 'esnext', '--moduleResolution', 'bundler']],
] as const)
  test(`types: ${name} with ${options.join(' ')}`, () =>
    inside(name, program, async (file) => {
      const tsc = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc');
      const { code, out } = await script(tsc, [
        '--ignoreConfig',
        '--noEmit',
        '--strict',
        '--target',
        'es2022',
        '--lib',
        'esnext',
        '--types',
        'node',
        ...options,
        file,
      ]);
      assert.is(code, 0, out);
    }));

test.run();

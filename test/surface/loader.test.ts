// The loader's errors: no addon, one that is no addon, one for another machine; and that the rest of the package works without. In: made-up packages.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadAddon } from '../../lib/addon_loader';
import { ChaiError } from '../../lib/errors';
import { root } from './programs';

const platform = `${process.platform}-${process.arch}`;

/** What loading says of a package folder with these files. */
function failure(files: Record<string, string | Buffer>): ChaiError {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-loader-'));
  try {
    for (const [name, content] of Object.entries(files)) {
      fs.mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
      fs.writeFileSync(path.join(folder, name), content);
    }
    loadAddon(folder);
  } catch (error) {
    assert.instance(error, ChaiError);
    return error as ChaiError;
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
  throw new Error('an addon was loaded');
}

function saysAll({ code, message, cause }: ChaiError): void {
  assert.is(code, 'ADDON_UNAVAILABLE');
  for (const part of [platform, process.version, `Node-API ${process.versions.napi}`, 'npx chai-llm build', 'CMake'])
    assert.match(message, part);
  if (process.platform === 'linux') assert.match(message, /glibc \d+\.\d+|musl/);
  assert.ok(cause instanceof Error, 'the cause is kept');
}

test('no addon at all: the folders that were looked into', () => {
  const error = failure({});
  saysAll(error);
  assert.match(error.message, path.join('build', 'Release'));
  assert.match(error.message, path.join('prebuilds', platform));
  assert.match(error.message, 'no .node file');
});

test('only binaries for another C library: which there are', () => {
  const error = failure({ [`prebuilds/${platform}/chai-llm.${process.platform === 'linux' ? 'musl' : 'abi1'}.node`]: 'x' });
  saysAll(error);
  assert.match(error.message, /chai-llm\.(musl|abi1)\.node/);
});

test('a file that is no addon: what the system says of it', () => {
  const error = failure({ 'build/Release/chai_llm.node': 'not a library' });
  saysAll(error);
  assert.match(error.message, /does not load/);
  assert.match(error.message, /chai_llm\.node/);
});

test('without an addon the package and its command line still load', () => {
  const folder = fs.mkdtempSync(path.join(root, 'build', 'bare-'));
  try {
    fs.cpSync(path.join(root, 'dist'), path.join(folder, 'dist'), { recursive: true });
    fs.copyFileSync(path.join(root, 'package.json'), path.join(folder, 'package.json'));
    const run = (...args: string[]) => execFileSync(process.execPath, args, { cwd: folder, encoding: 'utf8' });
    const source = `const chai = require('./dist/index.js');
      let code; try { chai.devices(); } catch (error) { code = error.code; }
      chai.loadModel(${JSON.stringify(path.join(root, 'models', 'starter'))}).catch((error) => console.log(chai.version, code, error.code));`;
    assert.match(run('-e', source), /^\d+\.\d+\.\d+ ADDON_UNAVAILABLE ADDON_UNAVAILABLE$/m);
    assert.match(run('dist/cli/main.js', 'build', '--help'), 'compile the native addon');
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
});

test.run();

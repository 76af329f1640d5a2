// `chai-llm build`: compiles the addon from the sources in the package, where no prebuilt binary fits. In: sources, CMake, a compiler; no network.
// Out: build/Release/chai_llm.node, which is preferred over prebuilt binaries from then on.
import path from 'node:path';
import type { Command } from 'commander';
import { ChaiError } from '../errors';
import { count, footer } from './options';
import { write } from './output';

interface Flags {
  cuda: boolean;
  jobs?: number;
  json?: boolean;
}

interface Builder {
  buildAddon(options: { tree?: string; definitions?: string[]; jobs?: number }): string | undefined;
  removeTree(tree: string): void;
}

const root = path.join(__dirname, '..', '..');

export function addBuild(program: Command): Command {
  return program
    .command('build')
    .description('compile the native addon on this machine, where no prebuilt one fits')
    .option('--no-cuda', 'leave the CUDA kernels out even if there is a CUDA compiler')
    .option('--jobs <count>', 'compilers at once (default: one a processor)', count)
    .option('--json', 'print one JSON object: the file, the devices it finds, the seconds it took')
    .addHelpText(
      'after',
      footer(`
Needs CMake 3.22 and a C++20 compiler (g++ 11, clang 14 or newer), and says which is missing. Without nvcc the addon computes on the CPU only.
Nothing is downloaded. The addon goes into the package itself, so this is to be run again after the package is updated.

Examples:
  npx chai-llm build
  npx chai-llm build --no-cuda --jobs 2
  npx chai-llm build --json`),
    )
    .action(run);
}

async function run(flags: Flags): Promise<void> {
  const start = performance.now();
  // The scripts that also build releases; plain JavaScript, because a clone has no dist/ yet when it builds.
  const { buildAddon, removeTree } = require(path.join(root, 'scripts', 'build_native.cjs')) as Builder;
  if (!flags.json) await write('compiling, this takes a few minutes ...\n');
  const tree = path.join(root, '.cmake-user');
  const problem = buildAddon({ tree, jobs: flags.jobs, definitions: [`-DWITH_CUDA=${flags.cuda ? 'AUTO' : 'OFF'}`] });
  if (problem) throw new ChaiError('ADDON_UNAVAILABLE', `cannot build the native addon: ${problem}`);
  removeTree(tree);
  const { devices } = await import('../index.js');
  const file = path.join(root, 'build', 'Release', 'chai_llm.node');
  const found = devices();
  const seconds = (performance.now() - start) / 1000;
  if (flags.json) return write(`${JSON.stringify({ file, seconds, devices: found })}\n`);
  const usable = found.filter((device) => device.usable).map(({ id }) => id);
  await write(`built ${file} in ${seconds.toFixed(0)} s; devices: ${usable.join(', ')}\n`);
}

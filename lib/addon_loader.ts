// Finds and loads the native addon. In: the package's folder. Out: the addon, or an error that says for which machine, what was tried and what to do.
import fs from 'node:fs';
import path from 'node:path';
import nodeGypBuild from 'node-gyp-build';
import { ChaiError } from './errors';

/** The Node-API version that the addon is built for. */
const nodeApi = 8;
const remedy = 'build it here with `npx chai-llm build` (needs CMake and a C++20 compiler; no network)';

/**
 * The addon of the package at `root`: build/Release first (built on this machine), then prebuilds/<platform>-<arch>.
 * @throws {ChaiError} ADDON_UNAVAILABLE naming platform, C library, Node-API version, what was tried and the remedy
 */
export function loadAddon(root: string): unknown {
  let file: string;
  try {
    file = nodeGypBuild.resolve(root);
  } catch (error) {
    const tried = candidates(root).map(({ folder, names }) => `${folder} (${names.length > 0 ? names.join(', ') : 'no .node file'})`);
    throw unavailable(`no native addon fits ${describeMachine()}; tried ${tried.join(' and ')}`, error);
  }
  try {
    return require(file);
  } catch (error) {
    const why = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
    throw unavailable(`the native addon ${file} does not load on ${describeMachine()}: ${why}`, error);
  }
}

function unavailable(what: string, cause: unknown): ChaiError {
  const version = Number(process.versions.napi ?? 0);
  const todo = version < nodeApi ? `use Node 20 or newer (Node-API ${nodeApi})` : remedy;
  return new ChaiError('ADDON_UNAVAILABLE', `${what}; ${todo}`, { cause });
}

/** Where an addon is looked for, and the .node files there. */
function candidates(root: string): { folder: string; names: string[] }[] {
  return [path.join(root, 'build', 'Release'), path.join(root, 'prebuilds', `${process.platform}-${process.arch}`)].map((folder) => ({
    folder,
    names: nodeFiles(folder),
  }));
}

function nodeFiles(folder: string): string[] {
  try {
    return fs.readdirSync(folder).filter((name) => name.endsWith('.node'));
  } catch {
    return [];
  }
}

/** For example `linux-x64, glibc 2.36, Node v20.20.2 with Node-API 9`. */
function describeMachine(): string {
  const libc = process.platform === 'linux' ? `, ${libcName()}` : '';
  return `${process.platform}-${process.arch}${libc}, Node ${process.version} with Node-API ${process.versions.napi ?? 'missing'}`;
}

/** Node's own report knows the C library; one without glibc's version runs on musl. */
function libcName(): string {
  const report = process.report as typeof process.report & { excludeNetwork?: boolean };
  report.excludeNetwork = true; // else the report asks name servers for the host's addresses
  const { header } = report.getReport() as unknown as { header?: { glibcVersionRuntime?: string } };
  return header?.glibcVersionRuntime ? `glibc ${header.glibcVersionRuntime}` : 'musl or another C library';
}

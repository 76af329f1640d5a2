// Proves on the real tarball what README promises about installing: contents, size, an install without compiler and scripts, every way to load it,
// the error and the build where no binary fits. Needs a built dist/ and the npm registry. Out: `N passed, N failed`; exit code 1 naming what is wrong.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { kernelChecks } = require('./check_kernels.cjs');
const { present, root } = require('./native.cjs');
const { contentFaults, most, pack, sizes } = require('./package/tarball.cjs');
const programs = require('./package/programs.cjs');
const { tool } = require('./package/tools.cjs');
const { workflowFaults } = require('./package/workflow.cjs');
const { locate, otherNode, toolFolder, User } = require('./package/user.cjs');

const platform = `${process.platform}-${process.arch}`;
/** Bytes of NVIDIA's runtime library and of what starts kernels: what a release has beyond one without kernels and beyond the kernels, measured. */
const cudaRuntime = 0.9e6;
const starter = path.join(root, 'models', 'starter');
const totals = { passed: 0, failed: 0 };

/** Counts one check; `result` is a run, or faults. */
function check(name, held, detail = '') {
  ++totals[held ? 'passed' : 'failed'];
  process.stdout.write(`${held ? 'ok    ' : 'FAILED'} ${name}\n`);
  if (!held) process.stderr.write(`${detail}\n`);
  return held;
}

const fine = (name, result) => check(name, result.ok && result.out.trim().endsWith('fine'), `${result.out}${result.err}`);

function typeChecks(user) {
  const tsc = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  for (const [file, ...options] of [
    ['user.cts', '--module', 'node16'],
    ['user.mts', '--module', 'node16'],
    ['other.cts', '--module', 'nodenext'],
    ['other.mts', '--module', 'nodenext'],
    ['user.ts', '--module', 'esnext', '--moduleResolution', 'bundler'],
  ]) {
    fs.writeFileSync(path.join(user.folder, file), programs.typed);
    const types = ['--typeRoots', path.join(root, 'node_modules', '@types'), '--types', 'node'];
    const flags = ['--ignoreConfig', '--noEmit', '--strict', '--target', 'es2022', '--lib', 'esnext', ...types, ...options, file];
    const { ok, out, err } = user.run([tsc, ...flags]);
    check(`types: ${file} with ${options.join(' ')}`, ok, `${out}${err}`);
  }
}

function bundles(user) {
  const { buildSync } = require(require.resolve('esbuild', { paths: [path.dirname(require.resolve('tsx/package.json'))] }));
  fs.writeFileSync(path.join(user.folder, 'source.mjs'), programs.bundled);
  for (const [format, out] of [
    ['cjs', 'bundle.cjs'],
    ['esm', 'bundle.mjs'],
  ]) {
    const outfile = path.join(user.folder, out);
    buildSync({
      entryPoints: [path.join(user.folder, 'source.mjs')],
      bundle: true,
      platform: 'node',
      format,
      external: ['chai-llm'],
      outfile,
    });
    fine(`a bundle (${format}) with chai-llm as an external`, user.run([out]));
  }
}

/** Every way to load the installed package. */
function loading(user, name) {
  fine(`${name}: require, generate`, user.program('app.cjs', programs.cjs(starter)));
  const parts = ['requireMs', 'addonMs'];
  const times = [];
  const quickest = (part) => Math.min(...times.map((time) => time[part]));
  let run;
  // The quickest of five tells of the package, the others of what else the machine does: more of them where it does much.
  do {
    run = user.program('timing.cjs', programs.timing);
    if (run.ok) times.push(JSON.parse(run.out.split('\n')[0]));
  } while (run.ok && (times.length < 5 || (times.length < 15 && parts.some((part) => quickest(part) >= 50))));
  if (fine(`${name}: require, devices`, run)) {
    for (const part of parts) {
      process.stdout.write(`       ${part} ${times.map((time) => time[part].toFixed(1)).join(' ')}\n`);
      check(`${name}: ${part} is less than 50`, quickest(part) < 50, `${quickest(part)} ms`);
    }
  }
  fine(`${name}: import, one instance with require`, user.program('app.mjs', programs.esm));
  fine(`${name}: two worker threads`, user.program('worker.cjs', programs.worker(starter)));
  const { ok, out, err } = user.cli(['info', '--devices']);
  check(`${name}: chai-llm info --devices`, ok && /^cpu: /.test(out), `${out}${err}`);
}

/** What others look at in a package: publint, are-the-types-wrong, the licences of what it brings. */
function inspections(tarball) {
  for (const [name, ...args] of [
    ['publint', 'run', tarball, '--strict'],
    ['attw', tarball],
  ]) {
    const { status, stdout, stderr } = spawnSync(tool(name), args, { encoding: 'utf8' });
    check(`${name}: nothing to say`, status === 0 && !/suggestion|warning/i.test(stdout), `${stdout}${stderr}`);
  }
  for (const [name, script] of [
    ['licences of all dependencies: listed and allowed', 'licenses.cjs'],
    ['API reference: up to date', 'docs.cjs'],
  ]) {
    const { status, stderr } = spawnSync(process.execPath, [path.join(__dirname, script), '--check'], { encoding: 'utf8' });
    check(name, status === 0, stderr);
  }
}

/** Without a binary: an error that names all there is to know, then the build that it names. */
function withoutBinary(user) {
  fs.rmSync(path.join(user.package, 'prebuilds'), { recursive: true });
  const { out } = user.program(
    'none.cjs',
    `const { devices, ChaiError } = require('chai-llm');
     try { devices(); } catch (error) { if (error instanceof ChaiError) console.log(error.code + ': ' + error.message); }`,
  );
  const parts = [
    /^ADDON_UNAVAILABLE: /,
    new RegExp(platform),
    /glibc \d|musl/,
    /Node-API \d/,
    /prebuilds/,
    /build.Release/,
    /npx chai-llm build/,
  ];
  for (const part of parts) check(`without a binary the error says ${part.source}`, part.test(out), out);
  const bare = user.cli(['build']);
  check(
    '`chai-llm build` without compiler and CMake says what to install',
    bare.status === 1 && /cmake .*compiler.*install/i.test(bare.err),
    bare.err,
  );

  const tools = Object.fromEntries(['cmake', 'c++', 'make', 'ld', 'as', 'ar', 'ranlib', 'uname'].map((tool) => [tool, locate(tool)]));
  const PATH = `${toolFolder(path.join(user.folder, 'compilers'), tools)}:${user.path}`;
  const cuda = present('nvcc') ? ['--no-cuda'] : []; // a compiler that is there is used, and takes minutes
  const built = user.offline().cli(['build', '--json', ...cuda], { PATH });
  check(
    `chai-llm build ${cuda.join()} with CMake and a compiler, offline`,
    built.ok && JSON.parse(built.out).devices[0].usable,
    `${built.out}${built.err}`,
  );
  check('the build leaves only the addon', !fs.existsSync(path.join(user.package, '.cmake-user')));
  fine('what was built generates', user.program('app.cjs', programs.cjs(starter)));
}

/**
 * GPU code, without compiling it again: that of the prebuilt binary where it has any, else that of the clone's own addon, which holds the kernels of the
 * releases where there is an nvcc, with what a release would then weigh.
 */
function kernels() {
  const folder = path.join(root, 'prebuilds', platform);
  const binary = path.join(folder, fs.readdirSync(folder)[0]);
  const own = path.join(root, 'build', 'Release', 'chai_llm.node');
  const released = kernelChecks(binary);
  const result = released ?? (fs.existsSync(own) ? kernelChecks(own) : undefined);
  if (!result) return process.stdout.write('not run: GPU kernels: build/Release was built without nvcc\n');
  process.stdout.write(`${result.sizes}\n`);
  for (const { name, held, detail } of result.checks) check(name, held, detail);
  if (released) return;
  const bytes = fs.statSync(binary).size + result.bytes + cudaRuntime;
  check(`a release with them would have about ${(bytes / 1e6).toFixed(2)} MB`, bytes <= most, `${most} bytes are the limit`);
}

/** The Linux binaries that are there already. */
function ownBinaries() {
  const folders = fs.readdirSync(path.join(root, 'prebuilds')).filter((name) => name.startsWith('linux-'));
  return folders.flatMap((name) =>
    fs.readdirSync(path.join(root, 'prebuilds', name)).map((file) => path.join(root, 'prebuilds', name, file)),
  );
}

async function main() {
  // A release brings the binaries that were built and tested on each platform.
  const script = process.argv.includes('--keep-prebuilds') ? ['check_binary.cjs', ...ownBinaries()] : ['prebuildify.cjs'];
  // The kernels of all GPUs take many minutes: they are left out here, and built before a release.
  const env = { ...process.env, CHAI_CUDA_ARCHITECTURES: process.env.CHAI_CUDA_ARCHITECTURES ?? 'none' };
  const prebuilt = spawnSync(process.execPath, [path.join(__dirname, script[0]), ...script.slice(1)], { cwd: root, encoding: 'utf8', env });
  process.stdout.write(prebuilt.stdout);
  if (!check('prebuilt binary: symbol versions, exports, stripped, size', prebuilt.status === 0, prebuilt.stderr)) return;
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-llm-package-'));
  try {
    const tarball = pack(folder);
    process.stdout.write(`${sizes(tarball)}\n`);
    const faults = contentFaults(tarball, platform);
    check('contents of the tarball', faults.length === 0, faults.join('\n'));

    kernels();
    inspections(tarball.file);
    const workflow = await workflowFaults();
    check('release workflow: actionlint has nothing to say', workflow.length === 0, workflow.join('\n'));
    const quiet = new User(path.join(folder, 'no-scripts'));
    const installed = quiet.install(tarball.file, '--ignore-scripts');
    if (!check('npm install --ignore-scripts', installed.ok, installed.err)) return;
    loading(quiet, `Node ${process.version}`);
    typeChecks(quiet);
    bundles(quiet);
    for (const version of [20, 22, 24].filter((major) => major !== Number(process.versions.node.split('.')[0]))) {
      const node = otherNode(path.join(folder, `node-${version}`), version);
      if (!node) process.stdout.write(`skipped: Node ${version} cannot be had from the npm registry here\n`);
      else loading(Object.assign(Object.create(quiet), { node }), `Node ${version}`);
    }
    const user = new User(path.join(folder, 'user'));
    const plain = user.install(tarball.file);
    if (!check('npm install without compiler and CMake', plain.ok && !/warn/i.test(plain.err), plain.err)) return;
    fine('require after it', user.program('app.cjs', programs.cjs(starter)));
    withoutBinary(user);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

main().then(() => {
  process.stdout.write(`${totals.passed} passed, ${totals.failed} failed\n`);
  process.exit(totals.failed > 0 ? 1 : 0);
});

// The long checks before a release, part by part: the released binary with its kernels for all GPUs, the package around it, other machines, sanitizers,
// memory over many rounds, fuzzing, compiled kernels and the GPU benchmark on the host, known holes in dependencies. In: optionally words, of which a
// part's name must hold one. Out: a line for each part, then `N passed, N failed`; exit code 1 on a failure. What cannot be had here is named as not run, and counts as neither.
const { execFileSync, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { present, root, runQuietly } = require('./native.cjs');

const wanted = process.argv.slice(2);
const parts = [];

function note(name, result) {
  parts.push({ name, result });
  process.stdout.write(`${result}: ${name}\n`);
}

/** Runs one part, unless others are asked for; `run` says `passed`, `failed` or why it was not run. */
function part(name, run) {
  if (wanted.length > 0 && !wanted.some((word) => name.includes(word))) return;
  process.stdout.write(`${name} ...\n`);
  note(name, run());
}

/** A command's outcome. */
function outcome(args, env = {}) {
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } });
  return status === 0 ? 'passed' : 'failed';
}

const binary = path.join(root, 'prebuilds', 'linux-x64', 'chai-llm.glibc.node');
const addon = path.join(root, 'build', 'Release', 'chai_llm.node');

/** Why kernels are not compiled here; undefined where they are. */
function noKernels() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'not run (kernels are released for x64 Linux)';
  return present('nvcc') || process.env.CUDACXX ? undefined : 'not run (there is no nvcc)';
}

/** As users get it: all kernels, checked for what it needs, what it spills and whom it serves. */
function releasedBinary() {
  if (noKernels()) return noKernels();
  const { CHAI_CUDA_ARCHITECTURES: _, ...all } = process.env;
  const built = spawnSync(process.execPath, ['scripts/prebuildify.cjs'], { cwd: root, stdio: 'inherit', env: all });
  return built.status === 0 ? outcome(['scripts/check_kernels.cjs', binary]) : 'failed';
}

/** Of bench/gpu/random_model.cpp's tiny shape, counted by hand: 4 layers, hidden 128, feed-forward 192, vocabulary 101, in 2 bytes each. */
const tinyWeights = 2 * (2 * 101 * 128 + 4 * 128 * (4 * 128 + 3 * 192) + (2 * 4 + 1) * 128);

/** What is wrong with the cells of a whole model. */
function modelFault(cells, least) {
  const timed = cells.filter(({ us, foundUs }) => us > 0 || foundUs > 0);
  if (timed.length < least || timed.length < cells.length)
    return `${timed.length} of ${cells.length} cells of a model are timed, of ${least}`;
  const other = timed.find(({ us, weightBytes }) => us > 0 && weightBytes !== tinyWeights);
  if (other) return `${other.cell} is of ${other.weightBytes} bytes of weights, the shape has ${tinyWeights}`;
  const untold = timed.find(({ us, library }) => us > 0 && !/cuBLAS/.test(library));
  return untold && `${untold.cell} does not say who does its products`;
}

/** What is wrong with a merged result of the tiny sections, as text; undefined when nothing is. */
function fault(file) {
  const { build, ceilings = [], decode = [], prefill = [], model = [], first = [] } = JSON.parse(fs.readFileSync(file, 'utf8'));
  if (!build?.[0].sources) return 'it does not say of which sources it is';
  const read = ceilings.find(({ cell }) => cell === 'read');
  if (!(read?.gbPerSecond > 0)) return 'it has no read ceiling';
  const timed = decode.filter(({ us, rounds }) => us > 0 && rounds > 0);
  if (timed.length < 10 || timed.length < decode.length) return `${timed.length} of ${decode.length} decode cells are timed, of 10 or more`;
  const clustered = timed.filter(({ ratioToDense, idealRatio }) => ratioToDense > 0 && idealRatio > 1);
  if (clustered.length < 6) return `${clustered.length} clustered cells are set beside dense ones, of 6 or more`;
  const untold = timed.filter(({ gbPerSecond, shareOfReadCeiling }) => !(gbPerSecond > 0 && shareOfReadCeiling > 0));
  if (untold.length > 0) return `${untold[0].cell} has no bandwidth`;
  if (prefill.length < 4) return `there are ${prefill.length} cells of prefill, of 4 or more`;
  const unchecked = [...decode, ...prefill].find(({ checked, derived }) => !derived && !(checked > 0 && checked < 0.01));
  if (unchecked) return `${unchecked.cell} is not checked against double precision`;
  return modelFault(model, 4) ?? modelFault(first, 5);
}

/** What nvcc makes of the kernels, for the oldest architecture and for Hopper. */
function compiledKernels() {
  return noKernels() ?? outcome(['scripts/test_ptx.cjs', '--all']);
}

/** A day with a GPU is rare and short: what is run then is built and run here through the host shim, in small. */
function gpuBenchmark() {
  if (process.platform !== 'linux') return 'not run (it is for Linux)';
  const build = '.cmake-gpu';
  const results = path.join(root, build, 'results');
  fs.rmSync(results, { recursive: true, force: true });
  const env = { ...process.env, CHAI_ARCH: 'host', BUILD: build, BENCH_FLAGS: '--tiny', SECTION_SECONDS: '240' };
  const run = (command, args) => spawnSync(command, args, { cwd: root, encoding: 'utf8', env, timeout: 30 * 60_000 });
  const failed = (what, { stdout, stderr, status } = {}) => {
    process.stderr.write(`${stdout ?? ''}${stderr ?? ''}${what}${status === undefined ? '' : ` (status ${status})`}\n`);
    return 'failed';
  };
  const measured = run('bash', ['scripts/gpu/bench.sh', 'ceilings', 'decode', 'prefill', 'model', 'first']);
  if (measured.status !== 0) return failed('bench.sh failed', measured);
  const result = path.join(results, 'gpu.json');
  const wrong = fault(result);
  if (wrong) return failed(`${result}: ${wrong}`);
  const kernel = run(path.join(root, build, 'chai_cuda_tests'), ['cuda_embed']);
  if (kernel.status !== 0) return failed('chai_cuda_tests failed', kernel);
  // Beside itself nothing is slower; beside a result twice as fast everything is.
  const [steady, faster] = ['steady.json', 'faster.json'].map((name) => path.join(results, name));
  const whole = fs.readFileSync(result, 'utf8').replace(/"spread":[^,}]+/g, '"spread":0.1');
  fs.writeFileSync(steady, whole);
  fs.writeFileSync(
    faster,
    whole.replace(/"us":([^,}]+)/g, (_, us) => `"us":${Number(us) / 2}`),
  );
  const outcomes = [steady, faster].map((committed) => run(path.join(root, build, 'chai_bench'), ['compare', committed, steady]));
  if (outcomes[0].status !== 0) return failed('compare finds a result slower than itself', outcomes[0]);
  if (outcomes[1].status !== 1) return failed('compare finds nothing slower than twice as fast', outcomes[1]);
  // What failed once is measured by the next call.
  const [cells, cell] = [path.join(results, 'decode.jsonl'), 'decode/8/8x64/1x130/8'];
  fs.appendFileSync(cells, `{"cell":"${cell}","fits":false,"error":"as if memory were short"}\n`);
  const again = run(path.join(root, build, 'chai_bench'), ['decode', '--tiny', '--only', cell, '--out', results]);
  const last = JSON.parse(fs.readFileSync(cells, 'utf8').trim().split('\n').at(-1));
  if (again.status !== 0 || last.cell !== cell || !(last.us > 0)) return failed('a cell that failed once was not measured again', again);
  const document = path.join(results, 'performance.md');
  fs.copyFileSync(path.join(root, 'docs', 'performance.md'), document);
  const drawn = run(process.execPath, ['scripts/gpu/charts.mjs', result, '--document', document, '--images', path.join(results, 'images')]);
  if (drawn.status !== 0) return failed('charts.mjs failed', drawn);
  return /SIMT shim/.test(fs.readFileSync(document, 'utf8')) ? 'passed' : failed('charts.mjs wrote no tables');
}

/** The registry says what is known against the packages that users get. */
function audit() {
  const { status, stdout } = spawnSync('npm', ['audit', '--omit=dev', '--json'], {
    cwd: root,
    encoding: 'utf8',
    shell: process.platform === 'win32',
  });
  try {
    const { metadata, message } = JSON.parse(stdout);
    if (!metadata) return `not run (${message})`;
  } catch {
    return 'failed';
  }
  if (status !== 0) process.stdout.write(`${stdout}\n`);
  return status === 0 ? 'passed' : 'failed';
}

const library = (name) => execFileSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim();

/** Puts an addon built with sanitizers in the place of the ordinary one while the tests run. */
function sanitizedAddon() {
  const tree = path.join(root, '.cmake-addon-sanitize');
  const folder = path.join(tree, 'addon');
  const options = ['-DSANITIZE=ON', '-DWITH_CUDA=OFF', '-DCMAKE_BUILD_TYPE=Release', `-Daddon_folder=${folder}`];
  if (!runQuietly('cmake', ['-S', root, '-B', tree, ...options]) || !runQuietly('cmake', ['--build', tree, '--parallel'])) return 'failed';
  fs.copyFileSync(addon, `${addon}.ordinary`);
  try {
    fs.copyFileSync(path.join(folder, 'chai_llm.node'), addon);
    const env = {
      LD_PRELOAD: library('libasan.so'),
      ASAN_OPTIONS: 'detect_leaks=0',
      UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
    };
    const ends = ['logits', 'clustered', 'generation'].map((name) => `end_to_end/${name}`);
    const rest = ['lifetime/calls', 'lifetime/running', 'lifetime/environments', 'surface/misuse'];
    const failed = [...ends, ...rest].filter(
      (file) => outcome(['--expose-gc', '--import', 'tsx', `test/${file}.test.ts`], env) === 'failed',
    );
    for (const file of failed) process.stdout.write(`FAILED: test/${file}.test.ts\n`);
    return failed.length > 0 ? 'failed' : 'passed';
  } finally {
    fs.renameSync(`${addon}.ordinary`, addon);
  }
}

/** Spoiled shapes, tensor tables and plans, guided by coverage. What was found once is kept in the folder of the corpus. */
function fuzzing() {
  if (!present('clang++')) return 'not run (there is no clang++)';
  const tree = path.join(root, '.cmake-fuzz');
  const corpus = path.join(tree, 'corpus');
  const options = ['-DCHAI_FUZZ=ON', '-DCHAI_ADDON=OFF', '-DWITH_CUDA=OFF', '-DCMAKE_CXX_COMPILER=clang++', '-DCMAKE_BUILD_TYPE=Release'];
  if (!runQuietly('cmake', ['-S', root, '-B', tree, ...options])) return 'failed';
  if (!runQuietly('cmake', ['--build', tree, '--parallel', '--target', 'fuzz_untrusted'])) return 'failed';
  fs.mkdirSync(corpus, { recursive: true });
  return runQuietly(path.join(tree, 'fuzz_untrusted'), ['-max_len=200', '-max_total_time=120', corpus]) ? 'passed' : 'failed';
}

part('the released binary: kernels of all GPUs, symbol versions, size', releasedBinary);
const keep = parts[0]?.result === 'passed' ? ['--keep-prebuilds'] : []; // else they build one without kernels
part('the package', () => outcome(['scripts/check_package.cjs', ...keep]));
part('binaries on other machines', () => outcome(['scripts/check_platforms.cjs', ...keep]));
part('soak of 1,000 load, generate, close rounds', () => outcome(['--expose-gc', 'test/soak/rounds.mjs', '1000']));
part('the addon under sanitizers', sanitizedAddon);
part('native tests and kernels under sanitizers', () => outcome(['scripts/test_sanitize.cjs', '--kernels']));
part('two minutes of fuzzing', fuzzing);
part('compiled kernels, interpreted', compiledKernels);
part('the GPU benchmark through the host shim', gpuBenchmark);
part('npm audit of what users install', audit);

const count = (result) => parts.filter((one) => one.result === result).length;
process.stdout.write('\n');
for (const { name, result } of parts) process.stdout.write(`${result.padEnd(8)} ${name}\n`);
process.stdout.write(`${count('passed')} passed, ${count('failed')} failed\n`);
process.exit(count('failed') > 0 || count('passed') === 0 ? 1 : 0);

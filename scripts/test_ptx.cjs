// Runs the compiled kernels without a GPU: nvcc's PTX, interpreted on the CPU by test/ptx, which refuses what compute-sanitizer would. In: --all for
// other architectures and orders as well, or part of a test's name. Out: a line for each group of tests, then `N passed, N failed`.
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { present, root, runQuietly } = require('./native.cjs');

const all = process.argv.includes('--all');
const wanted = process.argv.slice(2).find((argument) => argument !== '--all');

/** Tests by the first two words of their names, so that none is forgotten. Each of test/gpu needs a process of its own. */
function groups() {
  const names = new Set();
  for (const folder of ['cuda', 'gpu', 'ptx'].map((name) => path.join(root, 'test', name)))
    for (const file of fs.readdirSync(folder).filter((name) => /_test\.(cpp|cu)$/.test(name)))
      for (const [, name] of fs.readFileSync(path.join(folder, file), 'utf8').matchAll(/^TEST\(((?:cuda|gpu|ptx)_[a-z0-9]+)/gm))
        names.add(name);
  return [...names].sort();
}

/** How it is run: the code, and what is left open by a device but settled here. */
const runs = [{ name: '9.0a, hazards', code: 'ptx90a', env: { PTX_HAZARDS: '1', PTX_EARLY_BLOCKS: '256' } }];
if (all)
  runs.push(
    { name: '9.0a, other orders', code: 'ptx90a', env: { PTX_HAZARDS: '1', PTX_SEED: '1', PTX_EARLY_BLOCKS: '4096' } },
    { name: '9.0a, a fast device', code: 'ptx90a', env: { PTX_SEED: '2', PTX_LATE: '0', PTX_LATE_COPIES: '0' } },
    { name: '8.0, hazards', code: 'ptx80', env: { PTX_HAZARDS: '1', PTX_CAPABILITY: '80' } },
  );

function build(code) {
  const env = { ...process.env, CHAI_ARCH: code, BUILD: `build_gpu/${code}`, TARGETS: 'chai_cuda_tests' };
  return runQuietly('bash', ['scripts/gpu/build.sh'], { env });
}

/** One group in a process: what it says and how it ended. */
function runGroup({ code, env }, group) {
  return new Promise((resolve) => {
    const tests = path.join(root, 'build_gpu', code, 'chai_cuda_tests');
    const child = spawn(tests, [group], { cwd: root, env: { ...process.env, PTX_MEMORY_MB: '1024', ...env }, timeout: 10 * 60_000 });
    let output = '';
    const hear = (data) => {
      output += data;
    };
    child.stdout.on('data', hear);
    child.stderr.on('data', hear);
    child.on('close', (status) => resolve({ status, output }));
  });
}

async function main() {
  if (process.platform !== 'linux' || os.arch() !== 'x64' || (!present('nvcc') && !process.env.CUDACXX)) {
    process.stderr.write('compiled kernels are interpreted on x64 Linux, with nvcc: install the CUDA toolkit or set CUDACXX\n');
    return 1;
  }
  let passed = 0;
  let failed = 0;
  for (const run of runs) {
    if (!build(run.code)) return 1;
    const waiting = groups().filter((group) => !wanted || group.includes(wanted) || wanted.includes(group));
    const worker = async () => {
      for (let group = waiting.shift(); group; group = waiting.shift()) {
        const filter = wanted?.includes(group) ? wanted : group;
        const { status, output } = await runGroup(run, filter);
        const counts = /(\d+) passed, (\d+) failed\s*$/.exec(output);
        // A line of the emulated device is a fault or a wrong call, but for the test that causes one.
        const sound = (status === 0 || status === 77) && counts && (group === 'gpu_fault' || !/^ptx: /m.test(output));
        passed += Number(counts?.[1] ?? 0);
        failed += sound ? 0 : Math.max(1, Number(counts?.[2] ?? 0));
        if (!sound) process.stdout.write(output);
        process.stdout.write(`${sound ? 'ok    ' : 'FAILED'} ${run.name}: ${filter}: ${counts?.[0].trim() ?? `ended with ${status}`}\n`);
      }
    };
    await Promise.all(Array.from({ length: Math.max(1, os.availableParallelism()) }, worker));
  }
  process.stdout.write(`${passed} passed, ${failed} failed\n`);
  return failed > 0 || passed === 0 ? 1 : 0;
}

main().then((status) => process.exit(status));

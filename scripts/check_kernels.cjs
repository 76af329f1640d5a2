// Proves from an addon's machine code, without compiling or running anything, that its kernels keep their numbers in registers, but for named
// ones, and that every GPU is served. In: a .node file (default: build/Release). Out: what each architecture holds, `N passed, N failed`; exit code 1 on a fault.
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('./native.cjs');
const { gpuCode } = require('./package/kernels.cjs');

/** Where a step's time goes: attention of few and of many rows, products of few and of many rows. They must be found. */
const families = ['decode_kernel', 'prefill_kernel', 'gemv', 'gemm'];
/**
 * Kernels that may keep numbers of a thread in memory: `bytes` at most. All others must hold everything in registers, and a kernel that no longer
 * needs its line here must lose it.
 */
const exceptions = [{ kernel: /^rotary$/, bytes: 64, why: 'sine and cosine of large angles; once a step' }];
/** Compute capabilities, 10 times. */
const gpus = { A100: 80, 'A10, RTX 30': 86, 'L4, RTX 40': 89, 'H100, H200': 90, B200: 100, B300: 103, 'RTX 50': 120 };

/** The code that a GPU runs: machine code of its generation that is not newer, or of it alone; else PTX, compiled by the driver at first use. */
function servedBy(capability, codes) {
  const fits = ({ ptx, specific, architecture }) =>
    !ptx &&
    (specific ? architecture === capability : Math.floor(architecture / 10) === Math.floor(capability / 10) && architecture <= capability);
  return codes.findLast(fits) ?? codes.findLast(({ ptx, architecture }) => ptx && architecture <= capability);
}

function spills({ kernels }) {
  const faults = [];
  for (const family of families) if (!kernels.some((kernel) => kernel.name.startsWith(family))) faults.push(`has no kernel ${family}`);
  for (const kernel of kernels.filter(({ stack }) => stack > 0)) {
    const exception = exceptions.find(({ kernel: known }) => known.test(kernel.name));
    if (!exception || kernel.stack > exception.bytes)
      faults.push(`${kernel.name} keeps ${kernel.stack} bytes a thread in memory beside ${kernel.registers} registers`);
  }
  for (const { kernel } of exceptions)
    if (!kernels.some((one) => kernel.test(one.name) && one.stack > 0))
      faults.push(`${kernel.source} needs no exception any more: take it out of scripts/check_kernels.cjs`);
  return faults;
}

/** Checks of one addon (name, whether it holds, what is wrong) and the bytes of its GPU code; undefined where it has no kernels, since it was built without nvcc. */
function kernelChecks(file) {
  const codes = gpuCode(fs.readFileSync(file));
  if (codes.length === 0) return undefined;
  const checks = codes
    .filter(({ ptx }) => !ptx)
    .map((code) => {
      const faults = spills(code);
      return {
        name: `${code.name}: ${code.kernels.length} kernels keep their numbers in registers`,
        held: faults.length === 0,
        detail: faults.join('\n'),
      };
    });
  for (const [gpu, capability] of Object.entries(gpus)) {
    const code = servedBy(capability, codes);
    const by = code ? `${code.name}${code.ptx ? ', compiled by the driver at first use' : ''}` : 'nothing';
    checks.push({
      name: `${gpu} (${(capability / 10).toFixed(1)}) runs ${by}`,
      held: code !== undefined,
      detail: 'no code in the addon fits it',
    });
  }
  const sizes = codes.map(
    ({ name, bytes, kernels }) => `${String(bytes).padStart(9)}  ${name}${kernels.length ? `, ${kernels.length} kernels` : ''}`,
  );
  return { checks, sizes: sizes.join('\n'), bytes: codes.reduce((sum, { bytes }) => sum + bytes, 0) };
}

module.exports = { kernelChecks };

if (require.main === module) {
  const file = process.argv[2] ?? path.join(root, 'build', 'Release', 'chai_llm.node');
  const result = kernelChecks(file);
  if (!result) process.stdout.write(`not run: ${file} holds no GPU code; it was built without nvcc\n`);
  else process.stdout.write(`${result.sizes}\n`);
  const { checks } = result ?? { checks: [] };
  for (const { name, held, detail } of checks) {
    process.stdout.write(`${held ? 'ok    ' : 'FAILED'} ${name}\n`);
    if (!held) process.stderr.write(`${detail}\n`);
  }
  const failed = checks.filter(({ held }) => !held).length;
  process.stdout.write(`${checks.length - failed} passed, ${failed} failed\n`);
  process.exit(failed > 0 ? 1 : 0);
}

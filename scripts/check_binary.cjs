// Proves that a Linux binary runs on old machines and shows nothing of its inside. In: .node files. Out: its needs and sections in bytes; exit code 1 on a fault.
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');

/** The newest symbol versions a release may need: glibc of the machines that Node 20 itself runs on; no libstdc++ at all. */
const newest = { GLIBC: [2, 28], GCC: [4, 2] };
const libraries = /^(libc|libm|libpthread|libdl|librt|libgcc_s|ld-linux-[a-z0-9-]+)\.so\.\d+$/;
const exported = new Set(['napi_register_module_v1', 'node_api_module_get_api_version_v1']);
const most = 5e6; // bytes a platform

/** readelf knows the files of every machine; columns: number, value, size, type, bind, visibility, section, name. */
const readelf = (...args) => execFileSync('readelf', ['-W', ...args], { encoding: 'utf8', maxBuffer: 1 << 26 });

function newer(version, limit) {
  const parts = version.split('.').map(Number);
  for (let i = 0; i < parts.length; ++i) if (parts[i] !== (limit[i] ?? 0)) return parts[i] > (limit[i] ?? 0);
  return false;
}

function symbolFaults(file) {
  const faults = [];
  const needs = {};
  for (const line of readelf('--dyn-syms', file).split('\n')) {
    const [number, , , , bind, , section, name] = line.trim().split(/\s+/);
    if (!/^\d+:$/.test(number ?? '') || !name) continue;
    const [symbol, version] = name.split(/@+/);
    if (section !== 'UND') {
      if (bind !== 'LOCAL' && !exported.has(symbol)) faults.push(`exports ${symbol}`);
      continue;
    }
    const [, family, numbers] = /^([A-Z]+)_([\d.]+)$/.exec(version ?? '') ?? [];
    if (!family) {
      if (!/^napi_|^node_api_/.test(symbol) && bind !== 'WEAK') faults.push(`needs ${name}, which Node does not promise`);
      continue;
    }
    if (!newest[family]) faults.push(`needs ${name}: no ${family} may be needed`);
    else if (newer(numbers, newest[family]))
      faults.push(`needs ${name}, newer than ${family}_${newest[family].join('.')} (see native/platform/glibc_2_28.cpp)`);
    if (!needs[family] || newer(numbers, needs[family].split('.').map(Number))) needs[family] = numbers;
  }
  return { faults, needs };
}

/** Bytes of the sections, largest first. */
function sections(file) {
  const found = [...readelf('-S', file).matchAll(/^\s*\[\s*\d+\]\s+(\S+)\s+([A-Z_]+)\s+[0-9a-f]+\s+[0-9a-f]+\s+([0-9a-f]+)/gm)];
  return found
    .filter(([, , type]) => type !== 'NOBITS')
    .map(([, name, , size]) => ({ name, bytes: Number.parseInt(size, 16) }))
    .sort((a, b) => b.bytes - a.bytes);
}

function check(file) {
  const { faults, needs } = symbolFaults(file);
  const parts = sections(file);
  for (const { name } of parts) if (/^\.(debug|symtab|zdebug)/.test(name)) faults.push(`has a section ${name}: not stripped`);
  const needed = [...readelf('-d', file).matchAll(/NEEDED.*\[(.+)\]/g)].map(([, library]) => library);
  for (const library of needed) if (!libraries.test(library)) faults.push(`needs the library ${library}`);
  const { size } = fs.statSync(file);
  if (size > most) faults.push(`has ${size} bytes, more than ${most}`);
  process.stdout.write(
    `${file}: ${size} bytes; needs ${Object.entries(needs)
      .map(([family, version]) => `${family} ${version}`)
      .join(', ')}; ${needed.join(' ')}\n`,
  );
  const named = {
    '.text': 'code',
    '.rodata': 'constants',
    '.nv_fatbin': 'CUDA kernels',
    '.eh_frame': 'unwind tables',
    '.gcc_except_table': 'exception tables',
  };
  for (const { name, bytes } of parts.slice(0, 5)) process.stdout.write(`  ${String(bytes).padStart(8)}  ${name} ${named[name] ?? ''}\n`);
  for (const fault of faults) process.stderr.write(`${file} ${fault}\n`);
  return faults.length === 0;
}

const files = process.argv.slice(2).filter((file) => file.endsWith('.node'));
const sound = files.length > 0 && files.map(check).every(Boolean);
if (files.length === 0) process.stderr.write('no .node file given\n');
process.exit(sound ? 0 : 1);

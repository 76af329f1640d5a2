// Reads the GPU machine code out of an addon or an object file, with none of the CUDA toolkit's tools. In: the file. Out: for each architecture the
// bytes that it takes, and for each kernel what it needs of a multiprocessor.
const { spawnSync } = require('node:child_process');
const { toolModule } = require('./tools.cjs');

const magic = Buffer.from([0x50, 0xed, 0x55, 0xba]); // begins a fatbin
const zstd = 0x8000;
const specific = 0x100000; // code for one architecture alone, as sm_90a
const symbols = 2; // ELF's number for a symbol table
/** Records of a cubin's section .nv.info: a number for a kernel that a symbol names. */
const records = { 18: 'stack', 47: 'registers' };

/** Every piece of every fatbin in `bytes`: `ptx` or machine code for `architecture` (90: 9.0), `size` bytes in the file. */
function pieces(bytes) {
  const found = [];
  for (let at = bytes.indexOf(magic); at >= 0; at = bytes.indexOf(magic, at + 1)) {
    const header = bytes.readUInt16LE(at + 6);
    if (bytes.readUInt16LE(at + 4) !== 1 || header !== 16) continue; // these four bytes may stand anywhere
    const end = at + header + Number(bytes.readBigUInt64LE(at + 8));
    for (let entry = at + header; entry < end; ) {
      const head = bytes.readUInt32LE(entry + 4);
      const size = Number(bytes.readBigUInt64LE(entry + 8));
      const flags = Number(bytes.readBigUInt64LE(entry + 40));
      const compressed = bytes.readUInt32LE(entry + 16);
      found.push({
        ptx: bytes.readUInt16LE(entry) === 1,
        architecture: bytes.readUInt32LE(entry + 28),
        specific: (flags & specific) !== 0,
        zstd: (flags & zstd) !== 0,
        size: head + size,
        body: bytes.subarray(entry + head, entry + head + (compressed || size)),
      });
      entry += head + size;
    }
  }
  return found;
}

/** Sections of an ELF file of 64 bits: type, link, bytes. */
function sections(elf) {
  const table = Number(elf.readBigUInt64LE(40));
  const entry = elf.readUInt16LE(58);
  return Array.from({ length: elf.readUInt16LE(60) }, (_, i) => {
    const at = table + i * entry;
    const offset = Number(elf.readBigUInt64LE(at + 24));
    return {
      name: elf.readUInt32LE(at),
      type: elf.readUInt32LE(at + 4),
      link: elf.readUInt32LE(at + 40),
      bytes: elf.subarray(offset, offset + Number(elf.readBigUInt64LE(at + 32))),
    };
  });
}

const text = (strings, at) => strings.toString('latin1', at, strings.indexOf(0, at));

/** Kernels of one cubin: mangled name, registers a thread, bytes of stack a thread (spilled registers lie there), with those of called functions. */
function kernelsOf(elf) {
  const all = sections(elf);
  const names = all[elf.readUInt16LE(62)].bytes;
  const symbolTable = all.find(({ type }) => type === symbols);
  const info = all.find(({ name }) => text(names, name) === '.nv.info');
  const found = new Map();
  for (let at = 0; info && at < info.bytes.length; ) {
    const [form, record] = [info.bytes[at], info.bytes[at + 1]];
    const length = form === 4 ? info.bytes.readUInt16LE(at + 2) : 0; // the other forms hold their value in these two bytes
    if (form === 4 && records[record]) {
      const symbol = symbolTable.bytes.subarray(info.bytes.readUInt32LE(at + 4) * 24);
      const name = text(all[symbolTable.link].bytes, symbol.readUInt32LE(0));
      found.set(name, { ...found.get(name), name, [records[record]]: info.bytes.readUInt32LE(at + 8) });
    }
    at += 4 + length;
  }
  return [...found.values()].filter(({ registers }) => registers !== undefined);
}

/** `prefill_kernel<__half, __half, 80, 2>` for a mangled name; the mangled names themselves where there is no c++filt. */
function readable(mangled) {
  const { status, stdout } = spawnSync('c++filt', { input: mangled.join('\n'), encoding: 'utf8' });
  if (status !== 0) return mangled;
  const plain = (line) => {
    const name = line.replace(/\(anonymous namespace\)::|\b_GLOBAL__N__\w+::|\bchai::cuda::|^void /g, '');
    let depth = 0;
    for (let i = 0; i < name.length; ++i) {
      depth += name[i] === '<' ? 1 : name[i] === '>' ? -1 : 0;
      if (name[i] === '(' && depth === 0) return name.slice(0, i);
    }
    return name;
  };
  return stdout.trimEnd().split('\n').map(plain);
}

/**
 * All GPU code in a file, a line an architecture: `name` (sm_80, sm_90a, compute_90), `ptx`, `bytes` in the file, `kernels` (not of PTX, whose
 * registers are known only where it is compiled).
 */
function gpuCode(bytes) {
  const { decompress } = toolModule('fzstd');
  const found = new Map();
  for (const { ptx, architecture, specific: alone, size, zstd: packed, body } of pieces(bytes)) {
    const name = `${ptx ? 'compute' : 'sm'}_${architecture}${alone ? 'a' : ''}`;
    const one = found.get(name) ?? { name, ptx, architecture, specific: alone, bytes: 0, kernels: [] };
    one.bytes += size;
    if (!ptx) one.kernels.push(...kernelsOf(packed ? Buffer.from(decompress(body)) : body));
    found.set(name, one);
  }
  for (const { kernels } of found.values()) {
    const names = readable(kernels.map(({ name }) => name));
    kernels.forEach((kernel, i) => {
      kernel.name = names[i];
    });
  }
  return [...found.values()].sort((a, b) => a.architecture - b.architecture);
}

module.exports = { gpuCode };

// Builds the binary that npm users get. In: optionally a target (`linux-arm64` is cross-compiled). Out: prebuilds/<platform>-<arch>/chai-llm.glibc.node,
// checked by check_binary.cjs. The clone's own build/Release stays as it is: node-gyp-build would prefer a binary there.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('./native.cjs');

const host = `${process.platform}-${process.arch}`;
const target = process.argv[2] ?? host;
const [platform, arch] = target.split('-');
const toolchain = path.join(root, 'cmake', 'aarch64-linux-gnu.cmake');
const cross = target === host ? {} : target === 'linux-arm64' ? { CHAI_TOOLCHAIN: toolchain } : undefined;
if (!cross) {
  process.stderr.write(`${target} cannot be built on ${host}: run this on ${target}; only linux-arm64 is cross-compiled\n`);
  process.exit(2);
}
const staging = path.join(root, `.cmake-prebuild-${target}`);
const folder = path.join(root, 'prebuilds', target);
fs.mkdirSync(path.join(staging, 'build', 'Release'), { recursive: true });
fs.rmSync(folder, { recursive: true, force: true });
const script = path.join(__dirname, 'build_native.cjs');
const builder = process.platform === 'win32' ? `"${process.execPath}" "${script}"` : script; // Windows starts no scripts
const libc = platform === 'linux' ? ['--tag-libc'] : [];
const stripper = cross.CHAI_TOOLCHAIN ? ['--strip-bin', 'aarch64-linux-gnu-strip'] : [];
const { status } = spawnSync(
  process.execPath,
  [
    require.resolve('prebuildify/bin.js'),
    ...['--napi', '--strip', ...libc, '--name', 'chai-llm', '--platform', platform, '--arch', arch, ...stripper],
    ...['--cwd', staging, '--out', root, '--node-gyp', builder],
  ],
  { cwd: root, stdio: 'inherit', env: { ...process.env, ...cross } },
);
if (status !== 0 || platform !== 'linux') process.exit(status === 0 ? 0 : 1);
const check = spawnSync(
  process.execPath,
  [path.join(__dirname, 'check_binary.cjs'), ...fs.readdirSync(folder).map((name) => path.join(folder, name))],
  {
    stdio: 'inherit',
  },
);
process.exit(check.status ?? 1);

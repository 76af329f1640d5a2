// A user of the package on a machine without compiler, CMake or Python: only node, npm and a shell on PATH. In: a tarball. Out: an installed folder, and
// programs run in it.
const { execFileSync, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const npmCli = path.join(fs.realpathSync(execFileSync('npm', ['root', '-g'], { encoding: 'utf8' }).trim()), 'npm', 'bin', 'npm-cli.js');

/** A folder with links to these tools: a PATH that has nothing else. */
function toolFolder(folder, tools) {
  fs.mkdirSync(folder, { recursive: true });
  for (const [name, target] of Object.entries(tools)) fs.symlinkSync(target, path.join(folder, name));
  return folder;
}

const locate = (tool) => execFileSync('sh', ['-c', `command -v ${tool}`], { encoding: 'utf8' }).trim();

class User {
  /** `node`: the Node.js binary this user has. */
  constructor(folder, node = process.execPath) {
    this.folder = folder;
    this.node = node;
    fs.mkdirSync(folder, { recursive: true });
    fs.writeFileSync(path.join(folder, 'package.json'), '{ "name": "user", "private": true }\n');
    this.path = toolFolder(path.join(folder, 'bin'), { node, sh: locate('sh') });
  }

  /** Nothing of the surrounding npm run, no compiler, and a CI's proxies stay. */
  environment(more = {}) {
    const kept = Object.entries(process.env).filter(([name]) =>
      /^(HOME|TMPDIR|LANG|TERM|.*_proxy|.*_PROXY|NODE_EXTRA_CA_CERTS|npm_config_cache)$/.test(name),
    );
    return { ...Object.fromEntries(kept), PATH: this.path, ...more };
  }

  /** The same user without a network: in a namespace with none where the system lets us make one, else with proxies where nothing answers. */
  offline() {
    const nowhere = 'http://127.0.0.1:9';
    const proxies = { http_proxy: nowhere, https_proxy: nowhere, HTTP_PROXY: nowhere, HTTPS_PROXY: nowhere, npm_config_offline: 'true' };
    const alone = spawnSync('unshare', ['-rn', 'true']).status === 0 ? [locate('unshare'), '-rn'] : [];
    return Object.assign(Object.create(this), { before: alone, extra: proxies });
  }

  /** Runs a program in the folder; returns status and output. */
  run(args, env = {}) {
    const [command, ...rest] = [...(this.before ?? []), this.node, ...args];
    const result = spawnSync(command, rest, {
      cwd: this.folder,
      encoding: 'utf8',
      env: this.environment({ ...this.extra, ...env }),
      timeout: 600_000,
      maxBuffer: 1 << 26,
    });
    return {
      ok: result.status === 0,
      status: result.status,
      out: result.stdout ?? '',
      err: `${result.stderr ?? ''}${result.error?.message ?? ''}`,
    };
  }

  npm(...args) {
    return this.run([npmCli, ...args, '--no-audit', '--no-fund', '--loglevel=error']);
  }

  install(tarball, ...flags) {
    return this.npm('install', tarball, ...flags);
  }

  get package() {
    return path.join(this.folder, 'node_modules', 'chai-llm');
  }

  /** What `npx chai-llm` starts. */
  cli(args, env) {
    return this.run([fs.realpathSync(path.join(this.folder, 'node_modules', '.bin', 'chai-llm')), ...args], env);
  }

  /** Writes a program into the folder and runs it. */
  program(name, source, env) {
    fs.writeFileSync(path.join(this.folder, name), source);
    return this.run([name], env);
  }
}

/** The binary of another Node.js version from the npm registry, or undefined where it cannot be had. */
function otherNode(folder, version, platform = `${process.platform}-${process.arch}`) {
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(path.join(folder, 'package.json'), '{ "private": true }\n');
  const name = `node-${platform}`;
  const args = [npmCli, 'install', `${name}@${version}`, '--no-audit', '--no-fund', '--ignore-scripts', '--force', '--loglevel=error'];
  const { status } = spawnSync(process.execPath, args, { cwd: folder, stdio: 'ignore', timeout: 180_000 });
  const binary = path.join(folder, 'node_modules', name, 'bin', 'node');
  return status === 0 && fs.existsSync(binary) ? binary : undefined;
}

module.exports = { User, otherNode, toolFolder, locate };

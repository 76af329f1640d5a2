// When and how an unused GPU is spoken of, on made-up machines.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { NativeDevice } from '../../lib/binding';
import { hasNvidiaGpu, whyNotUsed } from '../../lib/gpu_warning';

const device = (id: string, reason?: string): NativeDevice => ({
  id,
  name: id,
  usable: reason === undefined,
  reason,
  totalBytes: 0,
  freeBytes: 0,
  detail: '',
});

/** A file tree like /sys with these PCI devices, for the time of `use`. */
async function machine(devices: [vendor: string, kind: string][], use: (root: string) => Promise<void>): Promise<void> {
  const root = fs.mkdtempSync(path.join(os.tmpdir(), 'chai-pci-'));
  for (const [i, [vendor, kind]] of devices.entries()) {
    const folder = path.join(root, 'sys/bus/pci/devices', `0000:0${i}:00.0`);
    fs.mkdirSync(folder, { recursive: true });
    fs.writeFileSync(path.join(folder, 'vendor'), `${vendor}\n`);
    fs.writeFileSync(path.join(folder, 'class'), `${kind}\n`);
  }
  try {
    await use(root);
  } finally {
    fs.rmSync(root, { recursive: true });
  }
}

test('finds an NVIDIA display controller, and nothing else', async () => {
  await machine([['0x10de', '0x030200']], async (root) => assert.is(await hasNvidiaGpu(root), true));
  await machine([['0x8086', '0x030000']], async (root) => assert.is(await hasNvidiaGpu(root), false));
  await machine([['0x10de', '0x040300']], async (root) => assert.is(await hasNvidiaGpu(root), false)); // a sound device
  assert.is(await hasNvidiaGpu('/nowhere'), false);
});

test('says why, where there is a GPU that is not used', async () => {
  const found = [device('cpu'), device('cuda', 'no NVIDIA driver is installed')];
  await machine([['0x10de', '0x030200']], async (root) => {
    assert.match((await whyNotUsed(found, root)) ?? '', /NVIDIA GPU.*CPU: no NVIDIA driver is installed/);
    assert.is(await whyNotUsed([device('cpu'), device('cuda:0')], root), undefined);
  });
  assert.is(await whyNotUsed(found, '/nowhere'), undefined);
});

test('a GPU that the driver names needs no look at the bus', async () => {
  const found = [device('cpu'), device('cuda:0', 'compute capability 7.5 is too low')];
  assert.match((await whyNotUsed(found, '/nowhere')) ?? '', /7\.5 is too low/);
});

test.run();

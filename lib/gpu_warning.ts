// Says once why a machine's NVIDIA GPU is not used, when `device: 'auto'` falls back to the CPU. In: the devices found. Out: a process warning.
import fs from 'node:fs/promises';
import path from 'node:path';
import type { NativeDevice } from './binding';

const nvidia = '0x10de';
const displayClass = '0x03'; // display controllers, of the PCI class codes
let warned = false;

/** Whether an NVIDIA GPU is on the PCI bus (Linux; elsewhere the driver alone knows). `root` stands before the path, for tests. */
export async function hasNvidiaGpu(root = ''): Promise<boolean> {
  const bus = path.join(root, '/sys/bus/pci/devices');
  const read = (device: string, name: string) => fs.readFile(path.join(bus, device, name), 'latin1').catch(() => '');
  for (const device of await fs.readdir(bus).catch(() => []))
    if ((await read(device, 'vendor')).startsWith(nvidia) && (await read(device, 'class')).startsWith(displayClass)) return true;
  return false;
}

/** The warning's text, or undefined where there is nothing to warn of. */
export async function whyNotUsed(found: readonly NativeDevice[], root?: string): Promise<string | undefined> {
  const cuda = found.filter(({ id }) => id.startsWith('cuda'));
  if (cuda.some(({ usable }) => usable)) return undefined;
  const named = cuda.find(({ id }) => id !== 'cuda'); // the driver knows the GPU itself
  const device = named ?? cuda[0];
  if (!device || (!named && !(await hasNvidiaGpu(root)))) return undefined;
  return `this machine has an NVIDIA GPU, but models are computed on the CPU: ${device.reason}. Say device: 'cpu' to be told no more`;
}

/** Warns at most once a process. */
export async function warnOfUnusedGpu(found: readonly NativeDevice[]): Promise<void> {
  if (warned) return;
  warned = true;
  const text = await whyNotUsed(found);
  if (text) process.emitWarning(text, { type: 'ChaiWarning', code: 'CHAI_GPU_NOT_USED' });
}

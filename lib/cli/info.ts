// `chai-llm info`: what a model directory holds and will take, and which devices there are. In: a directory. Out: text or JSON.
import type { Command } from 'commander';
import { devices, inspectModel, type ModelInfo } from '../inspect';
import { bytes, saving, table } from './format';
import { count } from './options';

interface Flags {
  contextLength?: number;
  devices?: boolean;
  json?: boolean;
}

export function addInfo(program: Command): void {
  program
    .command('info')
    .description('show what a model is and the memory it will take, and the devices found')
    .argument('[model]', 'model directory')
    .option('--context-length <tokens>', "tokens to plan memory for (default: the model's)", count)
    .option('--devices', 'only the devices')
    .option('--json', 'machine-readable')
    .addHelpText(
      'after',
      '\nExamples:\n  chai-llm info ./model\n  chai-llm info ./model --context-length 2048 --json\n  chai-llm info --devices',
    )
    .action(run);
}

async function run(directory: string | undefined, flags: Flags): Promise<void> {
  const info = directory === undefined || flags.devices ? undefined : await inspectModel(directory);
  const tokens = flags.contextLength ?? info?.config.contextLength ?? 0;
  if (flags.json) {
    const { headPlan, ...rest } = info ?? {};
    process.stdout.write(`${JSON.stringify({ model: info && { ...rest, headPlan, tokens }, devices: devices() }, null, 2)}\n`);
    return;
  }
  if (info) process.stdout.write(`${describe(info)}\n\n${memory(info, tokens)}\n\n`);
  for (const device of devices())
    process.stdout.write(
      device.usable
        ? `${device.id}: ${device.name}, ${device.detail}, ${bytes(device.freeBytes)} of ${bytes(device.totalBytes)} free\n`
        : `${device.id}: not usable: ${device.reason}\n`,
    );
}

function describe(info: ModelInfo): string {
  const { config, headPlan } = info;
  const lines = [
    ['architecture', config.architecture],
    [
      'parameters',
      `${(info.parameters / 1e6).toFixed(1)} M, ${info.weightTypes.join(' and ')}, ${bytes(info.weightBytes)} in ${info.files.length} file(s)`,
    ],
    ['layers', `${config.layers}, hidden size ${config.hiddenSize}`],
    ['heads', `${config.heads} query, ${config.keyValueHeads} key/value, size ${config.headDim}`],
    ['vocabulary', `${config.vocabularySize}, chat template: ${info.hasChatTemplate ? 'yes' : 'no'}`],
    ['context', `${config.contextLength} tokens${config.slidingWindow ? `, sliding window ${config.slidingWindow}` : ''}`],
    [
      'head plan',
      headPlan
        ? `${headPlan.method}, clusters a layer: ${headPlan.layers.map((l) => l.clusters ?? l.map?.queryOfScore.length ?? '?').join(' ')}`
        : 'none (dense)',
    ],
  ];
  return lines.map(([name, value]) => `${name?.padEnd(13)}${value}`).join('\n');
}

function memory(info: ModelInfo, tokens: number): string {
  const rows = Object.entries(info.cacheBytesPerToken).map(([type, { dense, clustered }]) => [
    type,
    bytes(dense * tokens),
    clustered === undefined ? '-' : bytes(clustered * tokens),
    clustered === undefined ? '-' : saving(clustered, dense),
    bytes(info.weightBytes + (clustered ?? dense) * tokens),
  ]);
  return table([[`K/V cache of ${tokens} tokens`, 'dense', 'clustered', 'saved', 'with weights'], ...rows]);
}

// `chai-llm info`: what a model directory holds and will take, and which devices there are. In: a directory. Out: text or JSON.
import type { Command } from 'commander';
import { ChaiError } from '../errors';
import type { Device, HeadPlan, ModelInfo } from '../index';
import { bytes, counted, pageTokens, saving, table, wholePages } from './format';
import { count, footer } from './options';
import { write } from './output';

interface Flags {
  contextLength?: number;
  devices?: boolean;
  json?: boolean;
}

export function addInfo(program: Command): Command {
  return program
    .command('info')
    .description('show what a model is and the memory it will take, and the devices found')
    .argument('[model]', 'model directory')
    .option('--context-length <tokens>', "tokens of one session to plan memory for (default: the model's context)", count)
    .option('--devices', 'only the devices; needs no model')
    .option('--json', 'print one JSON object: model, memory, devices')
    .addHelpText(
      'after',
      footer(`
Memory is in decimal units (1 kB = 1000 B) and counts whole pages of ${pageTokens} tokens. "clustered" is what the model's head plan keeps.

Examples:
  chai-llm info ./model
  chai-llm info ./model --context-length 2048 --json
  chai-llm info --devices`),
    )
    .action(run);
}

async function run(directory: string | undefined, flags: Flags): Promise<void> {
  if (directory === undefined && !flags.devices) throw new ChaiError('OPTION_INVALID', 'info needs a model directory, or --devices');
  const { devices, inspectModel } = await import('../index.js');
  const info = directory === undefined || flags.devices ? undefined : await inspectModel(directory);
  const found = devices();
  const tokens = flags.contextLength ?? info?.config.contextLength ?? 0;
  if (info && tokens > info.config.contextLength)
    throw new ChaiError(
      'OPTION_INVALID',
      `--context-length ${tokens} is more than the ${info.config.contextLength} tokens the model was made for`,
    );
  if (flags.json) return write(`${JSON.stringify({ model: info, memory: info && memory(info, tokens), devices: found }, null, 2)}\n`);
  const parts = [...(info ? [describe(info), showPlan(info.headPlan), showMemory(info, tokens)] : []), showDevices(found)];
  await write(`${parts.join('\n\n')}\n`);
}

function describe(info: ModelInfo): string {
  const { config } = info;
  const lines: [string, string][] = [
    ['model', info.directory],
    ['architecture', config.architecture],
    ['parameters', `${(info.parameters / 1e6).toFixed(info.parameters < 1e8 ? 2 : 0)} M`],
    ['weights', `${info.weightTypes.join(' and ')}, ${bytes(info.weightBytes)} in ${counted(info.files.length, 'file')}`],
    ['layers', `${config.layers}, hidden size ${config.hiddenSize}, feed-forward size ${config.intermediateSize}`],
    ['heads', `${config.heads} query, ${config.keyValueHeads} key/value, size ${config.headDim}`],
    ['vocabulary', `${config.vocabularySize} tokens`],
    ['context', `${config.contextLength} tokens${config.slidingWindow ? `, sliding window ${config.slidingWindow}` : ''}`],
    ['chat template', info.hasChatTemplate ? 'yes' : 'no'],
  ];
  return lines.map(([name, value]) => `${name.padEnd(15)}${value}`).join('\n');
}

/** Layers that share a geometry stand on one line. */
function showPlan(plan: HeadPlan | undefined): string {
  if (!plan) return 'head plan      none: attention is dense';
  const { method, clustering = 'kmeans', warmupTokens = 5, warmupStart = 0 } = plan;
  const online = `${clustering}, ${warmupTokens} warm-up tokens from token ${warmupStart}`;
  const geometry = plan.layers.map((layer) =>
    layer.map
      ? `${layer.map.queryOfScore.length} score slots, ${layer.map.keptKeys.length} key and ${layer.map.keptValues.length} value heads kept`
      : `${layer.clusters ?? new Set(layer.clusterOf).size} clusters${layer.keyHeads ? `, at most ${layer.keyHeads} key heads` : ''}`,
  );
  const starts = geometry.flatMap((text, i) => (text === geometry[i - 1] ? [] : [i]));
  const rows = starts.map((start, i) => {
    const last = (starts[i + 1] ?? geometry.length) - 1;
    return `  ${(last > start ? `layers ${start}-${last}` : `layer ${start}`).padEnd(13)}${geometry[start]}`;
  });
  return [`head plan      ${method}${method === 'chai' ? ` (${online})` : ''}`, ...rows].join('\n');
}

/** Bytes for one session of `tokens` tokens, by cache type. */
function memory(info: ModelInfo, tokens: number) {
  const held = wholePages(tokens);
  const cache = Object.entries(info.cacheBytesPerToken).map(([cacheType, { dense, clustered }]) => ({
    cacheType,
    dense: dense * held,
    clustered: clustered === undefined ? undefined : clustered * held,
    withWeights: info.weightBytes + (clustered ?? dense) * held,
  }));
  return { contextLength: tokens, weights: info.weightBytes, cache };
}

function showMemory(info: ModelInfo, tokens: number): string {
  const rows = memory(info, tokens).cache.map(({ cacheType, dense, clustered, withWeights }) => [
    cacheType,
    bytes(dense),
    clustered === undefined ? '-' : bytes(clustered),
    clustered === undefined ? '-' : saving(clustered, dense),
    bytes(withWeights),
  ]);
  return table([[`K/V cache of ${tokens} tokens`, 'dense', 'clustered', 'change', 'with weights'], ...rows]);
}

/** One line a device; what cannot be used says why, after what is known of it. */
function showDevices(found: Device[]): string {
  return found
    .map(({ id, name, detail, usable, reason, freeBytes, totalBytes }) => {
      const known = [name, detail].filter(Boolean).join(', ');
      return usable ? `${id}: ${known}, ${bytes(freeBytes)} of ${bytes(totalBytes)} free` : `${id}: not used: ${reason} (${known})`;
    })
    .join('\n');
}

// Head plans of a calibration and what they save. In: cluster counts, memberships. Out: a HeadPlan, shares of the K/V cache, a file's text.
import type { ModelConfig } from '../config';
import type { HeadPlan } from '../head_plan';
import type { CheckedOptions } from './options';

type Rule = Pick<CheckedOptions, 'warmupTokens' | 'warmupStart' | 'clustering' | 'method'>;
export interface PlanLayer {
  clusters: number;
  clusterOf?: number[];
  representatives?: number[];
}

export function makePlan(layers: PlanLayer[], { warmupTokens, warmupStart, clustering, method }: Rule, config: ModelConfig): HeadPlan {
  const { layers: count, heads, keyValueHeads, headDim } = config;
  return {
    format: 'chai-llm/head-plan@1',
    method,
    warmupTokens,
    warmupStart,
    clustering,
    headGroups: 1,
    model: { layers: count, heads, keyValueHeads, headDim },
    layers,
  };
}

/** K slots that a layer of k clusters does not need: representatives' key heads are kept, and never more than there are. */
export function savedSlots(clusters: number, { keyValueHeads }: ModelConfig): number {
  return keyValueHeads - Math.min(clusters, keyValueHeads);
}

/** Share of the dense K/V cache that is not kept once membership is known, as reserved for any membership. */
export function keyValueSaving(clusters: readonly number[], config: ModelConfig): number {
  const saved = clusters.reduce((sum, count) => sum + savedSlots(count, config), 0);
  return saved / (2 * config.keyValueHeads * clusters.length);
}

/** The same for fixed memberships, whose representatives' key heads are known. */
export function staticSaving(layers: readonly PlanLayer[], { heads, keyValueHeads }: ModelConfig): number {
  const keyHead = (head: number) => Math.floor(head / (heads / keyValueHeads));
  const kept = layers.reduce((sum, { representatives = [] }) => sum + new Set(representatives.map(keyHead)).size, 0);
  return (layers.length * keyValueHeads - kept) / (2 * keyValueHeads * layers.length);
}

/** JSON with lists of numbers on one line. */
export function planText(plan: HeadPlan): string {
  return `${JSON.stringify(plan, null, 1).replace(/\[\s+([\d,\s]*?)\s+\]/g, (_, numbers: string) => `[${numbers.replace(/\s+/g, ' ')}]`)}\n`;
}

// What a calibration is asked and what it answers: the public types, with their units.
import type { ModelConfig } from '../config';
import type { HeadPlan } from '../head_plan';

/** What cluster counts must meet. */
export type CalibrationBudget =
  /** At least this share of the dense K/V cache is saved, 0 to 1 (0.15: 15 %). */
  | { keyValueSaving: number }
  /** Perplexity on held-out text rises at most by this share, 0 or more (0.02: 2 %). */
  | { perplexityIncrease: number };

export interface CalibrateOptions {
  /** Text files: plain, or JSONL with a string `text` a line; each may be packed (.gz, .xz). They are read one after another. */
  text: readonly string[];
  /** Samples, drawn by the seed from all windows of the text; default 1024, or as many as there are. */
  samples?: number;
  /** Tokens of a sample and of a held-out window; default 256, or the context where that is shorter. Attention scores of the first 255 of them are looked at. */
  length?: number;
  /** The plan's W and S: membership is found from tokens S .. S + W - 1; default 5 and 0. S + W must be below `length` and at most 255. */
  warmupTokens?: number;
  warmupStart?: number;
  clustering?: 'kmeans' | 'average-linkage-cosine';
  /** What the plan does where it is used without a choice, and what a budget is measured with; default 'chai'. The plan holds both. */
  method?: 'chai' | 'chai-static';
  /** Cluster counts that meet a budget, found by measured loss; default: the elbow of each layer. */
  budget?: CalibrationBudget;
  /** Cluster counts of each layer that are known already (1 to the number of heads), such as published ones; not beside a budget. */
  clusters?: readonly number[];
  /** Windows for measuring loss, never among the samples; default 128. With a budget half of them guide the search, half check its result. */
  heldOut?: number;
  /** Where the held-out windows come from; default: `text`. */
  heldOutText?: readonly string[];
  /** Fixes what is drawn; default 0. */
  seed?: number;
  /** Put what the tokenizer adds before a text (a beginning-of-sequence token) before each window; default true. */
  addSpecialTokens?: boolean;
  /** Samples at work at a time; default 4. It changes no result on the CPU. */
  concurrency?: number;
  /** A file that keeps what was computed, written every few seconds and removed at the end (but see `keepState`). */
  stateFile?: string;
  /** Go on from `stateFile` where it is there. It must come from the same model, text and options; budgets and methods may differ. */
  resume?: boolean;
  /** Leave `stateFile` at the end: with `resume`, the next budget computes only what this one did not. */
  keepState?: boolean;
  signal?: AbortSignal;
  onProgress?: (progress: CalibrationProgress) => void;
}

export interface CalibrationProgress {
  /**
   * reading: text is drawn from, `total` is not known; attention: samples pass the dense model; search: cluster counts are tried;
   * membership: first tokens of the samples; measuring: the final perplexities.
   */
  phase: 'reading' | 'attention' | 'search' | 'membership' | 'measuring';
  /** Tokens computed, and in all; the search may take fewer than foreseen. */
  done: number;
  total: number;
  detail: string;
}

export interface LayerCalibration {
  /** [heads] clustering error for k = 1..heads: sum of squared distances of heads to the nearest centre, mean over samples. */
  errors: number[];
  /** Clusters by the elbow rule, and those of the plan. */
  elbow: number;
  clusters: number;
  /** [heads x heads], row-major: Pearson correlation of attention scores, mean over samples. */
  correlation: number[];
  /** [tokens] agreement (adjusted Rand index) of the membership found from the first 1, 2, ... tokens with that of the last; mean. */
  stability: number[];
  /** [clusters] mean sizes, the largest first. */
  sizes: number[];
  /** Share of samples whose membership is exactly the static one. */
  staticShare: number;
}

/**
 * How the membership for all sequences was made: 'median', the most typical of the samples' own, or 'averaged', by clustering the heads' inner
 * products averaged over samples. The one with the lower loss on samples is taken.
 */
export type StaticRule = 'median' | 'averaged';

export interface MeasuredLoss {
  /** 'dense', 'chai', 'chai-static'; 'elbow' is the plan's method with the elbows' counts where a budget or `clusters` says others. */
  name: string;
  /** Share of the dense K/V cache that is not kept, 0 to 1. */
  keyValueSaving: number;
  /** exp of the mean negative log-likelihood a token, with one standard error over windows. */
  perplexity: number;
  standardError: number;
  /** (perplexity / dense - 1), with the paired standard error. */
  increase: number;
  increaseError: number;
}

export interface BudgetSearch {
  /** Plans measured, the dense one included. */
  evaluations: number;
  /** On the half of the held-out windows that guided it. */
  increase: number;
  keyValueSaving: number;
  /** Loss of reducing one layer alone: nats a token above dense at k clusters. */
  layers: { clusters: number[]; loss: number[] }[];
}

export interface Calibration {
  plan: HeadPlan;
  model: ModelConfig;
  /** Options as they were used. */
  options: {
    samples: number;
    length: number;
    warmupTokens: number;
    warmupStart: number;
    clustering: 'kmeans' | 'average-linkage-cosine';
    heldOut: number;
    seed: number;
    budget?: CalibrationBudget;
    clusters?: number[];
  };
  text: { files: string[]; heldOutFiles?: string[]; windows: number };
  layers: LayerCalibration[];
  losses: MeasuredLoss[];
  staticRule: StaticRule;
  search?: BudgetSearch;
}

// What an evaluation is asked and what it answers: the public types, with their units.
import type { Attention } from '../head_plan';
import type { Model } from '../model';
import type { CacheBytes } from '../session';
import type { TaskName } from './formats';

export type { TaskName } from './formats';

export interface EvaluationTask {
  /**
   * 'perplexity' and 'agreement': text files (.txt; .jsonl with a string `text` a line). All others: JSONL, one item a line, as
   * `docs/evaluation.md` lists them. 'choice': { query, choices, gold } without any prompt form. All files may be packed (.gz, .xz).
   */
  task: TaskName;
  file: string;
}

/** One column of a comparison. */
export interface Compared {
  attention: Attention;
  /** How results call it; default: the attention's name. */
  name?: string;
  /** Another loaded model with the same tokenizer, such as one with heads removed; default: the model evaluated. */
  model?: Model;
}

export interface EvaluateOptions {
  tasks: readonly EvaluationTask[];
  /** Kinds of attention, side by side; default: the model's own. Differences are to the column named 'dense' when there is one. */
  compare?: readonly (Attention | Compared)[];
  /** Items (windows, for texts) of each file, drawn by the seed; default: all. */
  limit?: number;
  /** Fixes what is drawn; default 0. */
  seed?: number;
  /** Solved examples before each item, drawn from the same file by the seed; default 0. BLiMP and texts take none. */
  shots?: number;
  /** Tokens of a window of text; default: the context length, at most 1024. */
  window?: number;
  /** Tokens from one window to the next for 'perplexity'; default: half a window. */
  stride?: number;
  /** What the tokenizer puts before a text (a beginning-of-sequence token) stands before contexts and windows; default true. */
  addSpecialTokens?: boolean;
  /** Items at work at a time; default 16. The engine computes them together. It changes no result. */
  concurrency?: number;
  /** Also give each item's log-likelihoods. */
  details?: boolean;
  signal?: AbortSignal;
  onProgress?: (progress: EvaluationProgress) => void;
  /** Called with each task's result as soon as it is there: what is left of an evaluation that is broken off. */
  onTask?: (result: TaskResult) => void;
}

export interface EvaluationProgress {
  /** 'reading': files are read and tokenized, `total` is not known yet. */
  phase: 'reading' | 'scoring';
  task: TaskName;
  file: string;
  /** Tokens of items done and of all items, over all tasks and kinds of attention. */
  done: number;
  total: number;
}

export type FigureName =
  /** Share of items whose right continuation is the likeliest (lambada: is what greedy decoding gives), 0 to 1. */
  | 'accuracy'
  /** The same with log-likelihoods divided by the continuation's characters: `acc_norm` of lm-evaluation-harness. */
  | 'accuracyPerCharacter'
  /** The same with log-likelihoods divided by the continuation's UTF-8 bytes. */
  | 'accuracyPerByte'
  /** exp of the mean negative log-likelihood: of a token for texts, of the last word for lambada. */
  | 'perplexity'
  | 'natsPerToken'
  | 'bitsPerByte'
  /** Share of positions where the likeliest next token is that of dense attention, 0 to 1. */
  | 'topOneAgreement'
  /** Mean Kullback-Leibler divergence KL(dense || this) of the next token's distribution, nats. */
  | 'meanDivergence';

export interface Figure {
  name: FigureName;
  value: number;
  /** One standard error over items (windows of text); NaN for a single one. */
  standardError: number;
  higherIsBetter: boolean;
  /** To dense on the same items, with the paired standard error. */
  difference?: { value: number; standardError: number };
}

export interface ItemDetail {
  /** Line of the item, or at which its text begins. */
  line: number;
  /** Nats; one a continuation (texts: one, of all scored tokens). */
  logLikelihoods: number[];
  /** Tokens scored. */
  tokens: number[];
  gold?: number;
  greedy?: boolean;
}

export interface AttentionResult {
  attention: string;
  figures: Figure[];
  /** Mean K/V cache bytes of a whole sequence: held, and at full head count. */
  cacheBytes: CacheBytes;
  /** Tokens computed (what continuations share is computed once), seconds they took, all items together. */
  tokens: number;
  /** undefined for 'agreement', where all kinds of attention run together. */
  seconds?: number;
  items?: ItemDetail[];
}

export interface TaskResult extends EvaluationTask {
  /** Items (windows) evaluated, and in the file. */
  items: number;
  available: number;
  /** Examples before each item. */
  shots: number;
  /** Items left out of all figures, since a continuation alone does not fit the context length. */
  tooLong: number;
  /** Items whose context lost its beginning, since it did not fit. */
  truncated: number;
  /** What guessing gets: 'accuracy' tasks only; for a last word nothing. */
  chance?: number;
  /** What always giving the commonest answer gets, where all items have the same answers to choose from. */
  majority?: number;
  window?: number;
  stride?: number;
  results: AttentionResult[];
}

export interface Evaluation {
  tasks: TaskResult[];
}

// Tasks made ready: files read, drawn from, tokenized. In: a task and a model. Out: units of work and what each figure averages.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { abortError, ChaiError } from '../errors';
import type { Model } from '../model';
import { badLine } from '../text_files';
import { encodeQuestion, type Scored } from './encode';
import { type TaskForm, taskForms } from './formats';
import { type Item, readItems } from './items';
import type { CheckedOptions } from './options';
import type { EvaluationTask } from './types';
import { readWindows } from './windows';

/** One item, or one window of text. */
export interface Unit {
  line: number;
  /** [continuations]; one for words and windows. */
  sequences: Scored[];
  gold: number;
  /** [continuations] Unicode characters and UTF-8 bytes. For a window: bytes of its scored tokens. */
  characters: number[];
  bytes: number[];
  truncated: boolean;
}

export interface PreparedTask extends EvaluationTask {
  form: TaskForm;
  units: Unit[];
  available: number;
  tooLong: number;
  shots: number;
  chance?: number;
  majority?: number;
  window?: number;
  stride?: number;
}

export async function prepare(task: EvaluationTask, model: Model, options: CheckedOptions): Promise<PreparedTask> {
  const form: TaskForm = taskForms[task.task];
  if (form.kind === 'choices' || form.kind === 'word') return prepareItems(task, form, model, options);
  const { contextLength } = model.config;
  const window = Math.min(options.window ?? 1024, contextLength);
  if (options.window !== undefined && options.window > contextLength)
    throw new ChaiError('OPTION_INVALID', `window ${options.window} is more than the ${contextLength} tokens a session may hold`);
  const stride = form.kind === 'agreement' ? window : (options.stride ?? Math.ceil(window / 2));
  if (stride > window)
    throw new ChaiError('OPTION_INVALID', `stride ${stride} is more than the window of ${window} tokens: some would be left out`);
  const { windows, available } = await readWindows(task.file, model, { ...options, window, stride });
  if (windows.length === 0) throw badLine(task.file, 1, 'the text has no two tokens');
  const units = windows.map(({ ids, from, bytes, line }) => ({
    line,
    sequences: [{ ids, from }],
    gold: 0,
    characters: [Number.NaN],
    bytes: [bytes],
    truncated: false,
  }));
  return { ...task, form, units, available, tooLong: 0, shots: 0, window, stride };
}

async function prepareItems(task: EvaluationTask, form: TaskForm, model: Model, options: CheckedOptions): Promise<PreparedTask> {
  const { items, available } = await readItems(task.file, form, options);
  const units: Unit[] = [];
  const fitting: Item[] = [];
  let turn = performance.now();
  for (const item of items) {
    const unit = unitOf(item, task.file, model, options);
    if (unit) {
      units.push(unit);
      fitting.push(item);
    }
    if (performance.now() - turn < 4) continue; // the tokenizer works on this thread: let others have their turn
    await nextTurn();
    if (options.signal?.aborted) throw abortError(options.signal, 'the evaluation');
    turn = performance.now();
  }
  if (units.length === 0) throw badLine(task.file, items[0]?.line ?? 1, `no item fits the model's ${model.config.contextLength} tokens`);
  const guesses = form.kind === 'choices' ? { chance: chanceOf(fitting), majority: majorityOf(fitting) } : { chance: 0 };
  return { ...task, form, units, available, tooLong: items.length - units.length, shots: form.shots ? options.shots : 0, ...guesses };
}

function unitOf(item: Item, file: string, model: Model, { addSpecialTokens }: CheckedOptions): Unit | undefined {
  const { contextLength } = model.config;
  try {
    const sequences = encodeQuestion(item.context, item.continuations, model.tokenizer, { addSpecialTokens, contextLength });
    if (!sequences) return undefined;
    return {
      line: item.line,
      sequences: sequences.map(({ ids, from }) => ({ ids, from })),
      gold: item.gold,
      characters: item.texts.map((text) => [...text].length),
      bytes: item.texts.map((text) => Buffer.byteLength(text)),
      truncated: sequences.some(({ truncated }) => truncated),
    };
  } catch (error) {
    if (error instanceof ChaiError && error.code === 'OPTION_INVALID') throw badLine(file, item.line, error.message);
    throw error;
  }
}

function chanceOf(items: readonly Item[]): number {
  return items.reduce((sum, { texts }) => sum + 1 / texts.length, 0) / items.length;
}

function majorityOf(items: readonly Item[]): number | undefined {
  const answers = items[0]?.texts.join('\n');
  if (items.some(({ texts }) => texts.join('\n') !== answers)) return undefined;
  const counts = new Map<number, number>();
  for (const { gold } of items) counts.set(gold, (counts.get(gold) ?? 0) + 1);
  return Math.max(...counts.values()) / items.length;
}

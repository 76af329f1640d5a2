// Items of a JSONL file, a sample of them drawn by seed. In: a path, a task, how many. Out: questions with their examples before them.
import { badLine, readJsonLines } from '../text_files';
import { betweenShots, type Question, readQuestion, solved, type TaskForm } from './formats';
import { drawIndexes, Reservoir, randomNumbers } from './random';

/** Examples are drawn from at most so many items of a file, which keeps memory bounded. */
const examplePool = 1000;

export interface Item extends Question {
  /** Line in the file, from 1. */
  line: number;
}

export interface ItemOptions {
  /** Most items; Infinity: all. */
  limit: number;
  seed: number;
  shots: number;
  signal?: AbortSignal;
}

/** `available`: items in the file. Throws OPTION_INVALID naming file and line. */
export async function readItems(path: string, form: TaskForm, options: ItemOptions): Promise<{ items: Item[]; available: number }> {
  const { limit, seed, signal } = options;
  const shots = form.shots ? options.shots : 0;
  const sample = new Reservoir<Item>(limit, randomNumbers(seed));
  const examples = new Reservoir<Item>(shots > 0 ? examplePool : 0, randomNumbers(seed + 1));
  for await (const { value, line } of readJsonLines(path, { signal })) {
    const question = readQuestion(form, value);
    if (typeof question === 'string') throw badLine(path, line, question);
    const item = { ...question, line };
    sample.offer(item);
    examples.offer(item);
  }
  if (sample.seen === 0) throw badLine(path, 1, 'there is no item');
  if (sample.seen <= shots) throw badLine(path, 1, `${shots} examples before an item need more than the ${sample.seen} items of the file`);
  const items = sample.items.map((item) => withExamples(item, examples.items, shots, seed));
  return { items, available: sample.seen };
}

/** The examples of an item depend on the seed and its line alone, and never hold the item itself. */
function withExamples(item: Item, pool: readonly Item[], shots: number, seed: number): Item {
  if (shots === 0) return item;
  const self = pool.findIndex(({ line }) => line === item.line);
  const drawn = drawIndexes(shots, pool.length, self, randomNumbers(seed * 4099 + item.line));
  const before = drawn.map((at) => solved(pool[at] as Item) + betweenShots).join('');
  return { ...item, context: before + item.context };
}

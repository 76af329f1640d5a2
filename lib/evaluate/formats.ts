// What each task asks a model. In: one JSON object of a file. Out: a context, its continuations, which of them is right.
// Prompt forms, `acc` and `acc_norm` are those of EleutherAI's lm-evaluation-harness (tasks piqa, hellaswag, arc, boolq, lambada_openai,
// blimp; api/task.py): https://github.com/EleutherAI/lm-evaluation-harness
import * as v from 'valibot';

/** One question as text. The continuations hold the space that parts them from the context. */
export interface Question {
  /** Empty: the continuations stand alone, after the token that begins a sequence. */
  context: string;
  continuations: string[];
  /** Index of the right continuation. */
  gold: number;
  /** [continuations] what the harness divides log-likelihoods by: the text without the space before it. */
  texts: string[];
}

const text = v.string();
const index = v.pipe(v.number(), v.integer(), v.minValue(0));
const choices = v.pipe(v.array(v.pipe(text, v.minLength(1))), v.minLength(2), v.maxLength(256));
const flat = v.object({ query: text, choices, gold: index });
const rawChoices = v.object({ text: choices, label: v.array(text) });

const piqa = v.object({ goal: text, sol1: text, sol2: text, label: index });
const hellaswag = v.object({
  activity_label: text,
  ctx_a: text,
  ctx_b: text,
  endings: choices,
  label: v.union([index, v.pipe(text, v.regex(/^\d+$/))]),
});
const arc = v.object({ question: text, choices: rawChoices, answerKey: text });
const boolq = v.object({ passage: text, question: text, label: v.optional(index), answer: v.optional(v.boolean()) });
const lambada = v.object({ context: text, continuation: v.pipe(text, v.minLength(1)) });
const blimp = v.object({ good: v.pipe(text, v.minLength(1)), bad: v.pipe(text, v.minLength(1)) });
const lambadaText = v.object({ text: v.pipe(text, v.regex(/\S \S+$/, 'expected a text of several words')) });
const blimpRaw = v.object({ sentence_good: v.pipe(text, v.minLength(1)), sentence_bad: v.pipe(text, v.minLength(1)) });

/** Of several shapes an item may have, the first that its fields name. */
interface Shape {
  /** A field that only this shape has. */
  mark: string;
  read(value: unknown): Question | string;
}

function shape<Schema extends v.GenericSchema>(
  mark: string,
  schema: Schema,
  read: (item: v.InferOutput<Schema>) => Question | string,
): Shape {
  return {
    mark,
    read: (value) => {
      const result = v.safeParse(schema, value);
      if (result.success) return read(result.output);
      const [issue] = result.issues;
      return `${v.getDotPath(issue) ?? 'item'}: ${issue.message}`;
    },
  };
}

function question(context: string, texts: string[], gold: number): Question | string {
  if (gold >= texts.length) return `gold: ${gold}, but there are ${texts.length} choices`;
  return { context, continuations: texts.map((choice) => ` ${choice}`), gold, texts };
}

const asked = (query: string) => (/Answer:\s*$/.test(query) ? query.trimEnd() : `${query.trimEnd()}\nAnswer:`);
const answers: Shape = shape('query', flat, ({ query, choices: texts, gold }) => question(asked(query), texts, gold));

/** HellaSwag's text holds marks of its source (WikiHow): the harness's clean-up. */
export function cleanHellaswag(raw: string): string {
  return raw
    .trim()
    .replaceAll(' [title]', '. ')
    .replaceAll(/\[.*?\]/g, '')
    .replaceAll('  ', ' ');
}

/** As Python's str.capitalize: the rest becomes small. */
function capitalize(words: string): string {
  const [first = '', ...rest] = words;
  return first.toUpperCase() + rest.join('').toLowerCase();
}

const shapes = {
  choice: [shape('query', flat, ({ query, choices: texts, gold }) => question(query.trimEnd(), texts, gold))],
  piqa: [answers, shape('goal', piqa, ({ goal, sol1, sol2, label }) => question(asked(`Question: ${goal}`), [sol1, sol2], label))],
  hellaswag: [
    shape('query', flat, ({ query, choices: texts, gold }) => question(cleanHellaswag(query), texts.map(cleanHellaswag), gold)),
    shape('endings', hellaswag, ({ activity_label, ctx_a, ctx_b, endings, label }) =>
      question(cleanHellaswag(`${activity_label}: ${ctx_a} ${capitalize(ctx_b)}`), endings.map(cleanHellaswag), Number(label)),
    ),
  ],
  arc: [
    answers,
    shape('answerKey', arc, ({ question: words, choices: { text: texts, label }, answerKey }) => {
      const gold = label.indexOf(answerKey);
      return gold < 0 ? `answerKey: ${answerKey} is no label` : question(asked(`Question: ${words}`), texts, gold);
    }),
  ],
  boolq: [
    answers,
    shape('passage', boolq, ({ passage, question: words, label, answer }) => {
      const gold = label ?? (answer === undefined ? undefined : Number(answer));
      return gold === undefined ? 'label: missing' : question(asked(`${passage}\nQuestion: ${words}?`), ['no', 'yes'], gold);
    }),
  ],
  lambada: [
    shape('context', lambada, ({ context, continuation }) => question(context, [continuation], 0)),
    shape('text', lambadaText, ({ text: all }) => {
      const cut = all.lastIndexOf(' ');
      return question(all.slice(0, cut), [all.slice(cut + 1)], 0);
    }),
  ],
  blimp: [
    shape('good', blimp, ({ good, bad }) => question('', [good, bad], 0)),
    shape('sentence_good', blimpRaw, ({ sentence_good, sentence_bad }) => question('', [sentence_good, sentence_bad], 0)),
  ],
} satisfies Record<string, Shape[]>;

/** How items of a task are read and scored. 'choices': the likeliest continuation; 'word': the one continuation, as greedy decoding. */
export interface TaskForm {
  kind: 'choices' | 'word' | 'perplexity' | 'agreement';
  shapes: Shape[];
  /** Examples may stand before an item. */
  shots: boolean;
}

export const taskForms = {
  perplexity: { kind: 'perplexity', shapes: [], shots: false },
  agreement: { kind: 'agreement', shapes: [], shots: false },
  choice: { kind: 'choices', shapes: shapes.choice, shots: true },
  piqa: { kind: 'choices', shapes: shapes.piqa, shots: true },
  hellaswag: { kind: 'choices', shapes: shapes.hellaswag, shots: true },
  arc_easy: { kind: 'choices', shapes: shapes.arc, shots: true },
  arc_challenge: { kind: 'choices', shapes: shapes.arc, shots: true },
  boolq: { kind: 'choices', shapes: shapes.boolq, shots: true },
  lambada: { kind: 'word', shapes: shapes.lambada, shots: true },
  blimp: { kind: 'choices', shapes: shapes.blimp, shots: false },
} satisfies Record<string, TaskForm>;

export type TaskName = keyof typeof taskForms;
export const taskNames = Object.keys(taskForms) as TaskName[];

/** The question in a JSON value, or what is wrong with it. */
export function readQuestion(form: TaskForm, value: unknown): Question | string {
  const fields = typeof value === 'object' && value !== null ? value : {};
  const found = form.shapes.find(({ mark }) => mark in fields);
  if (!found) return `expected an object with ${form.shapes.map(({ mark }) => `"${mark}"`).join(' or ')}`;
  return found.read(value);
}

/** What the harness puts between examples. */
export const betweenShots = '\n\n';

/** A solved question as it stands before another. */
export function solved({ context, continuations, gold }: Question): string {
  return `${context}${continuations[gold]}`;
}

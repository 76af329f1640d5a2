// The columns of a comparison: kinds of attention, each with a name and a scorer. In: a model, what to compare. Out: open sessions.
import path from 'node:path';
import { ChaiError } from '../errors';
import type { Model } from '../model';
import type { CheckedOptions } from './options';
import { type Room, roomOf } from './room';
import { Scorer } from './scorer';
import type { Compared } from './types';

export interface Column {
  name: string;
  model: Model;
  room: Room;
  scorer: Scorer;
}

/** Throws PLAN_INVALID, or OPTION_INVALID when two have one name or a model has another vocabulary. */
export async function openColumns(model: Model, options: CheckedOptions): Promise<Column[]> {
  const rooms = new Map<Model, Room>();
  const columns: Column[] = [];
  try {
    for (const [i, compared] of options.compare.entries()) {
      const own = compared.model ?? model;
      const name = nameOf(compared, i, own);
      if (columns.some((column) => column.name === name))
        throw new ChaiError('OPTION_INVALID', `evaluate: option compare: two columns are called ${name}; give them names`);
      checkSame(own, model, name);
      const room = rooms.get(own) ?? (await roomOf(own));
      rooms.set(own, room);
      columns.push({ name, model: own, room, scorer: await Scorer.open(own, compared.attention, room, options) });
    }
    return columns;
  } catch (error) {
    await closeColumns(columns);
    throw error;
  }
}

export async function closeColumns(columns: readonly Column[]): Promise<void> {
  await Promise.all(columns.map(({ scorer }) => scorer.close()));
}

/** A file of a plan is called by its folder and name. */
function nameOf({ attention, name }: Compared, index: number, model: Model): string {
  if (name !== undefined) return name;
  if (typeof attention !== 'string') return `plan ${index + 1}`;
  if (attention === 'auto') return model.attention;
  return /\.json$/i.test(attention) ? path.join(path.basename(path.dirname(attention)), path.basename(attention, '.json')) : attention;
}

function checkSame({ config }: Model, { config: first }: Model, name: string): void {
  if (config.vocabularySize !== first.vocabularySize || config.contextLength < first.contextLength)
    throw new ChaiError(
      'OPTION_INVALID',
      `evaluate: option compare: ${name} is a model of ${config.vocabularySize} tokens and context ${config.contextLength}; ` +
        `that of the model evaluated is ${first.vocabularySize}, ${first.contextLength}`,
    );
}

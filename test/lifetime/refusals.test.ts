// What the native border refuses: wrong types and ranges of every parameter, foreign objects, hostile getters. In: misuse. Out: coded errors.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type LayerHeads, type NativeModel, type NativePlan, native } from '../../lib/binding';
import { chaiPlan, codeOf, densePlan, generateOptions, ids, type TinyModel, tinyModel } from './tiny_model';

let tiny: TinyModel;
let model: NativeModel;
test.before(async () => {
  tiny = tinyModel();
  model = await native.load(tiny.options, {});
});
test.after(async () => {
  await model.close();
  tiny.remove();
});

/** A value of every kind that a number, string, object or typed array may be mistaken for. */
const strange: unknown[] = [
  undefined,
  null,
  true,
  -1,
  1.5,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  2 ** 53,
  -(2 ** 63),
  'x',
  '',
  1n,
  Symbol('s'),
  () => 0,
  {},
  [],
  [1],
  new Uint8Array(4),
  new Int32Array(0),
  new Proxy({}, {}),
  new Date(0),
  Object.create(null),
];

const isObject = (value: unknown): boolean => typeof value === 'object' && value !== null;

/** `path` of a deep copy of `value` replaced. */
function replaced<T extends object>(value: T, path: string[], by: unknown): T {
  const copy = structuredClone(value) as Record<string, unknown>;
  let at = copy;
  for (const key of path.slice(0, -1)) at = at[key] as Record<string, unknown>;
  at[path[path.length - 1]!] = by;
  return copy as T;
}

test('a method borrowed onto anything else refuses it', async () => {
  const sequence = model.createSequence(densePlan());
  const generation = sequence.generate(ids(5), generateOptions({ maxTokens: 2 }));
  const objects: object[] = [model, sequence, generation];
  for (const owner of objects)
    for (const name of Object.getOwnPropertyNames(Object.getPrototypeOf(owner))) {
      if (name === 'constructor') continue;
      const borrowed = (owner as Record<string, unknown>)[name] as (...values: unknown[]) => unknown;
      const others = [
        ...objects.filter((other) => other !== owner),
        Object.create(owner),
        new Proxy(owner, {}),
        {},
        [],
        null,
        undefined,
        7,
        'x',
        () => 0,
      ];
      for (const self of others) assert.is(await codeOf(() => Reflect.apply(borrowed, self, [])), 'OPTION_INVALID', name);
    }
  for (const owner of objects) {
    const Class = owner.constructor as new () => object;
    assert.is(await codeOf(() => new Class()), 'OPTION_INVALID');
    assert.is(await codeOf(() => (Class as unknown as () => object)()), 'OPTION_INVALID');
    assert.is(await codeOf(() => new (class extends Class {})()), 'OPTION_INVALID');
  }
  await sequence.close();
});

test('load refuses wrong values of every option, with the code of the option', async () => {
  const fields: [string[], string][] = [
    ...Object.keys(tiny.options.config).map((key): [string[], string] => [['config', key], 'MODEL_INVALID']),
    [['config'], 'MODEL_INVALID'],
    [['files'], ''],
    [['weights'], 'MODEL_INVALID'],
    [['layers'], 'MODEL_INVALID'],
    [['weights', 'tokenEmbedding'], 'MODEL_INVALID'],
    [['layers', '1'], 'MODEL_INVALID'],
    [['layers', '1', 'query.weight'], 'MODEL_INVALID'],
    ...['file', 'offset', 'type', 'rows', 'columns'].map((key): [string[], string] => [['layers', '0', 'up.weight', key], 'MODEL_INVALID']),
    ...['device', 'cacheType', 'cacheTokens', 'maxBatch', 'maxRows', 'threads', 'mmap'].map((key): [string[], string] => [[key], '']),
    [['files', '0'], ''],
  ];
  const allowed = new Set([
    'MODEL_INVALID',
    'OPTION_INVALID',
    'MODEL_NOT_FOUND',
    'DEVICE_UNAVAILABLE',
    'UNSUPPORTED_MODEL',
    'OUT_OF_MEMORY',
  ]);
  for (const [path, expected] of fields) {
    let refused = 0;
    for (const value of strange) {
      const options = cloneOptions(path, value);
      const code = await loadCode(options);
      if (code === 'nothing') continue; // a strange value that happens to be a right one: 1.5 as a scale, true, ...
      refused++;
      assert.ok(expected ? code === expected : allowed.has(code), `${path.join('.')} ${describe(value)}: ${code}`);
    }
    assert.ok(refused >= strange.length - 4, `${path.join('.')} refused only ${refused}`);
  }
  for (const value of strange)
    assert.is(await codeOf(() => native.load(value as never, {})), isObject(value) ? 'MODEL_INVALID' : 'OPTION_INVALID', describe(value));
});

/** load options with one field replaced; the rest is shared (symbols and functions cannot be cloned). */
function cloneOptions(path: string[], by: unknown): unknown {
  const copy = (value: unknown, depth: number): unknown => {
    if (depth === path.length) return by;
    const shallow = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string, unknown>;
    shallow[path[depth]!] = copy(shallow[path[depth]!], depth + 1);
    return shallow;
  };
  return copy(tiny.options, 0);
}

async function loadCode(options: unknown): Promise<string> {
  let loaded: NativeModel | undefined;
  const code = await codeOf(async () => {
    loaded = await native.load(options as never, {});
  });
  await loaded?.close();
  return code;
}

function describe(value: unknown): string {
  return typeof value === 'object' ? Object.prototype.toString.call(value) : String(value);
}

test('wrong arguments of every other call are refused with a code', async () => {
  const sequence = model.createSequence(densePlan());
  const bad = <T>(value: unknown): T => value as T;
  const features = new Float64Array(8);
  const rule = { clusters: 2, clustering: 'kmeans', headGroups: 1, keyValueHeads: 2, keyHeads: 0 };
  const busy = async (call: () => { close(): Promise<void> }) =>
    codeOf(async () => {
      await call().close();
    });
  for (const value of strange) {
    const name = describe(value);
    const isIds = value instanceof Int32Array;
    assert.is(await codeOf(() => sequence.evaluate(bad(value), 'none', {})), 'OPTION_INVALID', name);
    assert.is(await codeOf(() => sequence.evaluate(ids(1), bad(value), {})), 'OPTION_INVALID', name);
    if (!isObject(value)) assert.is(await codeOf(() => sequence.evaluate(ids(1), 'none', bad(value))), 'OPTION_INVALID', name);
    if (!isIds) assert.is(await codeOf(() => sequence.generate(bad(value), generateOptions())), 'OPTION_INVALID', name);
    assert.is(await codeOf(() => sequence.generate(ids(1), bad(value))), 'OPTION_INVALID', name);
    assert.is(await codeOf(() => sequence.truncate(bad(value))), 'OPTION_INVALID', name);
    assert.is(await busy(() => model.createSequence(bad(value))), 'PLAN_INVALID', name);
    assert.is(await codeOf(() => native.clusterHeads(bad(value), 4, bad(rule))), 'OPTION_INVALID', name);
    assert.is(await codeOf(() => native.clusterHeads(features, bad(value), bad(rule))), 'OPTION_INVALID', name);
    assert.is(await codeOf(() => native.clusterHeads(features, 4, bad(value))), 'PLAN_INVALID', name);
    if (value !== undefined && typeof value !== 'function')
      assert.is(await codeOf(() => native.load(tiny.options, {}, bad(value))), 'OPTION_INVALID', name);
    for (const key of Object.keys(rule)) {
      const code = await codeOf(() => native.clusterHeads(features, 4, bad({ ...rule, [key]: value })));
      assert.is(code, 'PLAN_INVALID', `${key} ${name}`);
    }
  }
  for (const wrong of [new Float32Array(4), [1, 2], new Uint32Array(2)])
    assert.is(await codeOf(() => sequence.evaluate(bad(wrong), 'none', {})), 'OPTION_INVALID');
  for (const id of [-1, 64, 2 ** 31 - 1, -(2 ** 31)])
    assert.is(await codeOf(() => sequence.evaluate(Int32Array.of(id), 'none', {})), 'OPTION_INVALID');
  assert.is(await codeOf(() => sequence.evaluate(ids(257), 'none', {})), 'CONTEXT_OVERFLOW');
  assert.is(await codeOf(() => native.clusterHeads(new Float64Array(7), 4, bad(rule))), 'OPTION_INVALID');
  assert.is(sequence.tokens().length, 0);
  await sequence.close();
});

test('wrong generate options are refused one by one', async () => {
  const sequence = model.createSequence(densePlan());
  const wrong: Record<string, unknown[]> = {
    temperature: [-1, Number.NaN, Number.POSITIVE_INFINITY, '1', null],
    topK: [-1, 1.5, 2 ** 31],
    topP: [-0.1, 1.1, Number.NaN],
    minP: [-0.1, 1.1],
    repetitionPenalty: [0, -1, Number.NaN],
    seed: [1.5, 2 ** 53, Number.NaN, '1'],
    logprobs: [0, 1, 'true', undefined],
    maxTokens: [-1, 0.5, 2 ** 31, undefined],
    stopTokens: [[1], undefined, new Uint32Array(1), null],
  };
  for (const [key, values] of Object.entries(wrong))
    for (const value of values) {
      const options = { ...generateOptions(), [key]: value } as never;
      assert.is(await codeOf(() => sequence.generate(ids(3), options)), 'OPTION_INVALID', `${key} ${describe(value)}`);
    }
  const generation = sequence.generate(ids(3), generateOptions());
  for (const value of strange) assert.is(await codeOf(() => generation.stop(value as never)), 'OPTION_INVALID', describe(value));
  await generation.stop(0);
  await sequence.close();
});

test('wrong plans are refused with PLAN_INVALID', async () => {
  const identity: LayerHeads = {
    scoresFrom: 0,
    scoreOfQuery: [0, 1, 2, 3],
    queryOfScore: [0, 1, 2, 3],
    keyOfScore: [0, 0, 1, 1],
    keptKeys: [0, 1],
    valueOfQuery: [0, 0, 1, 1],
    keptValues: [0, 1],
  };
  const layer = (map: LayerHeads) => ({ clusters: 4, keyHeads: 0, map });
  const explicit: NativePlan = { ...densePlan(), method: 'explicit', layers: [layer(identity), layer({ ...identity, scoresFrom: 1 })] };
  const fixed: NativePlan = {
    ...densePlan(),
    method: 'chai-static',
    layers: [0, 1].map(() => ({ clusters: 2, keyHeads: 0, clusterOf: [0, 0, 1, 1], representatives: [0, 2] })),
  };
  for (const plan of [explicit, fixed, chaiPlan()])
    assert.is(await codeOf(() => model.createSequence(plan).close()), 'nothing', plan.method);
  const wrong: [NativePlan, string[], unknown][] = [
    [densePlan(), ['method'], 'magic'],
    [densePlan(), ['layers'], []],
    [densePlan(), ['layers'], undefined],
    [densePlan(), ['layers', '0'], 1],
    [chaiPlan(), ['warmupTokens'], 0],
    [chaiPlan(), ['warmupTokens'], 257],
    [chaiPlan(), ['warmupStart'], 255],
    [chaiPlan(), ['clustering'], 'guess'],
    [chaiPlan(), ['headGroups'], 3],
    [chaiPlan(), ['headGroups'], 0],
    [chaiPlan(), ['layers', '1', 'clusters'], 5],
    [chaiPlan(), ['layers', '1', 'clusters'], 0],
    [chaiPlan(), ['layers', '1', 'keyHeads'], 3],
    [fixed, ['layers', '0', 'clusterOf'], undefined],
    [fixed, ['layers', '0', 'clusterOf'], [0, 0, 1]],
    [fixed, ['layers', '0', 'clusterOf'], [0, 0, 1, 2]],
    [fixed, ['layers', '0', 'clusterOf'], [0, 0, 0, 0]],
    [fixed, ['layers', '0', 'representatives'], [0]],
    [fixed, ['layers', '0', 'representatives'], [0, 4]],
    [fixed, ['layers', '0', 'representatives'], [0, -1]],
    [explicit, ['layers', '0', 'map'], undefined],
    [explicit, ['layers', '1', 'map', 'scoresFrom'], 0],
    [explicit, ['layers', '0', 'map', 'scoresFrom'], 1],
  ];
  for (const key of ['scoreOfQuery', 'queryOfScore', 'keyOfScore', 'keptKeys', 'valueOfQuery', 'keptValues'])
    for (const value of [[], [0], [9, 9, 9, 9], [0.5, 0, 0, 0], [Number.NaN], 'x', undefined, [2 ** 31]])
      wrong.push([explicit, ['layers', '0', 'map', key], value]);
  for (const [plan, path, value] of wrong)
    assert.is(
      await codeOf(() => model.createSequence(replaced(plan, path, value))),
      'PLAN_INVALID',
      `${plan.method} ${path.join('.')} ${value}`,
    );
});

test('getters and setters that close things under a call do no harm', async () => {
  const other = await native.load(tiny.options, {});
  const sequence = other.createSequence(densePlan());
  const options = Object.defineProperty(generateOptions(), 'temperature', {
    get: () => {
      void sequence.close();
      return 0;
    },
  });
  assert.is(await codeOf(() => sequence.generate(ids(3), options)), 'CLOSED');
  const second = other.createSequence(densePlan());
  const job = Object.defineProperty({}, 'cancel', {
    set: (cancel: () => void) => {
      cancel();
      void other.close();
    },
  });
  assert.is(await codeOf(() => second.evaluate(ids(3), 'none', job)), 'CLOSED');
  const thrower = Object.defineProperty({}, 'cancel', {
    set: () => {
      throw new RangeError('no');
    },
  });
  const error = await native.load(tiny.options, thrower).then(
    () => undefined,
    (error: unknown) => error,
  );
  assert.instance(error, RangeError);
  const plan = Object.defineProperty(densePlan(), 'headGroups', {
    get: () => {
      throw 5;
    },
  });
  let thrown: unknown;
  try {
    model.createSequence(plan);
  } catch (error) {
    thrown = error;
  }
  assert.is(thrown, 5);
  await other.close();
});

test.run();

// What the environment tests run in child processes and workers. In: the name of a scene (argument or worker data). Out: messages, exit codes.
import { parentPort, workerData } from 'node:worker_threads';
import { type NativeSequence, native } from '../../lib/binding';
import { chaiPlan, densePlan, generateOptions, ids, slowModel, tinyModel } from './tiny_model';

const say = (message: string): void => {
  if (parentPort) parentPort.postMessage(message);
  else process.stdout.write(`${message}\n`);
};

/** Keeps the engine in steps until something ends this environment. */
async function evaluateForever(sequence: NativeSequence): Promise<void> {
  for (;;) {
    await sequence.evaluate(ids(4096), 'none', {});
    sequence.truncate(0);
  }
}

const scenes: Record<string, () => Promise<void>> = {
  /** Ends with a loaded, idle, unclosed model. */
  async idle() {
    const model = await native.load(tinyModel().options, {});
    const generation = model.createSequence(chaiPlan()).generate(ids(8), generateOptions());
    say(`tokens ${(await generation.next()).ids.length > 0}`);
  },
  async 'exit-in-step'() {
    const model = await native.load(slowModel().options, {});
    void evaluateForever(model.createSequence(densePlan(4)));
    setInterval(() => {
      if (model.stats().steps < 2) return;
      say('running');
      process.exit(0);
    }, 5);
  },
  async 'exit-in-generation'() {
    const model = await native.load(slowModel().options, {});
    const generation = model.createSequence(densePlan(4)).generate(ids(500), generateOptions({ maxTokens: 3000 }));
    await generation.next();
    void generation.next();
    say('running');
    process.exit(0);
  },
  async 'exit-in-load'() {
    native.load(slowModel().options, {}, () => {
      say('loading');
      process.exit(0);
    });
  },
  /** Reports once it is in the middle of things, then never ends. */
  async busy() {
    const model = await native.load(slowModel().options, {});
    const generation = model.createSequence(densePlan(4)).generate(ids(500), generateOptions({ maxTokens: 3000 }));
    await generation.next();
    say('running');
    await evaluateForever(model.createSequence(densePlan(4)));
  },
  async 'busy-callback'() {
    await native.load(slowModel().options, {}, () => {
      say('running');
      for (;;); // terminated inside a callback of the addon
    });
  },
  /** A whole generation; reports the tokens. */
  async generate() {
    const model = await native.load(tinyModel().options, {});
    const generation = model.createSequence(chaiPlan()).generate(ids(8), generateOptions({ maxTokens: 24 }));
    const tokens: number[] = [];
    for (;;) {
      const { ids: ready, finish } = await generation.next();
      tokens.push(...ready);
      if (finish) break;
    }
    await model.close();
    say(tokens.join(' '));
  },
};

void scenes[(workerData as string | null) ?? process.argv[2] ?? '']?.();

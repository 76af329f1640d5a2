// What is compared with dense attention. In: a model, flags of reproduce.mjs. Out: published figures, a head plan, the rows of the table.
import fs from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { calibrate, readHeadPlan } from '../../dist/index.js';
import { countsOf, sharedValues } from '../accuracy_study/variants.mjs';

const folder = path.dirname(fileURLToPath(import.meta.url));

/** The published figures for a model of this architecture and shape; undefined for others. */
export async function publishedFor({ architecture, layers, heads, keyValueHeads }) {
  const { source, models } = JSON.parse(await fs.readFile(path.join(folder, 'published.json'), 'utf8'));
  const found = models.find((model) => model.architecture === architecture && model.layers === layers && model.heads === heads);
  return found && heads === keyValueHeads ? { ...found, source } : undefined;
}

/** The published counts that are used where no plan is given; undefined where none are. */
export const publishedPlan = (published) => published?.plans[0] && path.join(folder, 'plans', `${published.plans[0]}.json`);

async function readPlan(file, clustering) {
  const plan = await readHeadPlan(file);
  if (!plan.layers.every((layer) => layer.clusters ?? layer.clusterOf)) throw new Error(`${file}: a layer has no cluster count`);
  const counts = countsOf(plan);
  const layers = plan.layers.map((layer, i) => ({ ...layer, clusters: counts[i] }));
  return { ...plan, method: 'chai', clustering: clustering ?? plan.clustering, layers };
}

/** `online` has the cluster counts, `members` also which heads belong together: from the text, else from the plan, else undefined. */
export async function findPlan(model, flags, published) {
  const file = flags.plan ?? publishedPlan(published);
  const name = file && path.basename(file);
  const plan = file && (await readPlan(file, flags.clustering));
  if (plan) await (await model.createSession({ attention: plan })).close(); // one that does not fit is refused before all else
  if (flags.text.length > 0) {
    const members = await findMembers(model, flags, plan);
    return {
      counts: name ?? `the elbows of ${flags.text.map((text) => path.basename(text)).join(', ')}`,
      online: plan ?? members,
      members,
    };
  }
  if (!plan) throw new Error('no cluster counts are published for this model: give --text, or --plan');
  return { counts: name, online: plan, members: plan.layers.every(({ clusterOf }) => clusterOf) ? plan : undefined };
}

/** Members for the plan's counts, found as the plan says; without a plan the counts are the elbows. */
async function findMembers(model, flags, plan) {
  let shown = '';
  const onProgress = ({ phase, done, total }) => {
    const now = `${phase} ${total ? Math.floor((100 * done) / total) : 0} %`;
    if (now !== shown) process.stderr.write(`\r${now}   `);
    shown = now;
  };
  const made = await calibrate(model, {
    ...{ text: flags.text, samples: flags.samples && Number(flags.samples), length: flags.length && Number(flags.length), onProgress },
    ...{ clustering: plan?.clustering ?? flags.clustering ?? 'kmeans' },
    ...(plan && { clusters: countsOf(plan), warmupTokens: plan.warmupTokens, warmupStart: plan.warmupStart }),
    ...{ stateFile: path.join(flags.out, 'calibration.state'), resume: true },
  });
  process.stderr.write('\n');
  await fs.writeFile(path.join(flags.out, 'head-plan.json'), `${JSON.stringify(made.plan, null, 1)}\n`);
  return made.plan;
}

/** The rows, as `evaluate` takes them. CHAI-QKV: CHAI-static's clusters with one value head each, where all heads have their own. */
export function comparedOf({ online, members }, { heads, keyValueHeads }) {
  const compare = [
    { attention: 'dense', name: 'dense' },
    { attention: online, name: 'chai' },
  ];
  if (members) compare.push({ attention: { ...members, method: 'chai-static' }, name: 'chai-static' });
  if (members && heads === keyValueHeads) compare.push({ attention: sharedValues(members), name: 'chai-qkv' });
  return compare;
}

// The engine's clustering against an independent Python implementation on random feature vectors, near copies and ties.
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { native } from '../../lib/binding';
import { fixtures } from './fixtures';

interface Case {
  features: number[][];
  clusters: number;
  clustering: 'kmeans' | 'average-linkage-cosine';
  expected: { clusterOf: number[]; representatives: number[]; margin: number };
}
const cases = JSON.parse(fs.readFileSync(path.join(fixtures, 'clustering.json'), 'utf8')) as Case[];

test('clusters and representatives agree wherever no decision hangs on rounding', () => {
  let clear = 0;
  for (const { features, clusters, clustering, expected } of cases) {
    const heads = features.length;
    const found = native.clusterHeads(Float64Array.from(features.flat()), heads, {
      clusters,
      clustering,
      headGroups: 1,
      keyValueHeads: heads,
      keyHeads: 0,
    });
    const sizes = Array.from({ length: clusters }, (_, c) => found.clusterOf.filter((x) => x === c).length);
    assert.ok(
      sizes.every((size) => size > 0),
      'no cluster is empty',
    );
    if (expected.margin < 1e-9) continue;
    ++clear;
    assert.equal(found.clusterOf, expected.clusterOf);
    assert.equal(found.representatives, expected.representatives);
  }
  assert.ok(clear > cases.length / 2, `${clear} of ${cases.length} cases decide clearly`);
});

test.run();

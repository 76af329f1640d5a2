// The benchmark of the CPU backend's kernels runs and measures what docs/performance.md shows: every instruction set, every kernel, once.
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

interface Measurement {
  set: string;
  what: string;
  unit: string;
  median: number;
  least: number;
  greatest: number;
}

const program = path.join('.cmake-tests', 'chai_bench_cpu'); // `npm test native` builds it

test('every kernel of every instruction set has a rate', () => {
  const all: Measurement[] = JSON.parse(execFileSync(program, ['2', '0.0001'], { encoding: 'utf8' }));
  for (const one of all) {
    assert.ok(one.median > 0 && one.least <= one.median && one.median <= one.greatest, JSON.stringify(one));
  }
  const kernels = (set: string) => all.filter((one) => one.set === set && one.what !== 'multiply-adds').map(({ what }) => what);
  const draws = ['32000', '128256'].flatMap((of) => ['greedy', 'temperature', 'top-k', 'top-p'].map((way) => `draws of ${of}, ${way}`));
  assert.equal(kernels(''), ['reads', ...draws]);
  const sets = [...new Set(all.map(({ set }) => set))].filter((set) => set !== '');
  assert.is(sets[0], 'plain');
  for (const set of sets) assert.equal(kernels(set), kernels('plain'));
  assert.ok(kernels('plain').includes('matrix times vector'));
  for (const set of sets.slice(1))
    assert.ok(
      all.some((one) => one.set === set && one.what === 'multiply-adds'),
      set,
    );
});

test('what is not a number of rounds or of seconds is refused', () => {
  for (const given of [['0'], ['1', '0'], ['x'], ['1', 'x']])
    assert.throws(() => execFileSync(program, given, { stdio: 'pipe' }), /usage: chai_bench_cpu/);
});

test.run();

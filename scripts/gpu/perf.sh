#!/usr/bin/env bash
# Compares a fresh measurement with the committed one of the same GPU. In: section names (default: ceilings decode prefill model). Exit: 1 when a cell
# is slower by more than 5 % beyond the spread, 2 when there is nothing to compare with.
set -uo pipefail
cd "$(dirname "$0")/../.."
name=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | head -1 | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')
committed="bench/results/gpu-${name:-unknown}.json"
if [ ! -e "$committed" ]; then
  echo "no committed result of this GPU: $committed; make one with npm run bench:gpu and copy build_gpu/results/gpu.json there" >&2
  exit 2
fi
sections=("$@")
[ ${#sections[@]} -gt 0 ] || sections=(ceilings decode prefill model)
scripts/gpu/build.sh || exit 1
results=build_gpu/perf
rm -rf "$results"
mkdir -p "$results"
for section in "${sections[@]}"; do
  build_gpu/chai_bench "$section" --out "$results"
  code=$?
  [ $code = 0 ] || [ $code = 3 ] || exit $code
done
scripts/gpu/merge.sh "$results" > "$results/gpu.json"
build_gpu/chai_bench compare "$committed" "$results/gpu.json"

#!/usr/bin/env bash
# Measures afresh and compares with the committed result of the same GPU. In: section names (default: ceilings decode prefill first model), COMMITTED
# (default: bench/results/gpu-NAME.json), SECTION_SECONDS, BUILD. Out: what is slower. Exit: 1 when a cell is slower by more than 5 % beyond the
# spread or is missing, 2 when there is nothing to compare with, 4 when the device was slowed down.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
name=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | head -1 | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')
committed=${COMMITTED:-bench/results/gpu-${name:-unknown}.json}
if [ ! -e "$committed" ]; then
  echo "no committed result of this GPU: $committed; make one with npm run bench:gpu and copy build_gpu/results/gpu.json there" >&2
  exit 2
fi
sections=("$@")
[ ${#sections[@]} -gt 0 ] || sections=(ceilings decode prefill first model)
scripts/gpu/build.sh || exit 1
library=$(scripts/gpu/library_path.sh)
[ -z "$library" ] || export LD_LIBRARY_PATH="$library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
read -ra flags <<< "${BENCH_FLAGS:-}" # of chai_bench
out=${BUILD:-build_gpu}
results=$out/perf
rm -rf "$results"
mkdir -p "$results"
for section in "${sections[@]}"; do
  code=3
  while [ $code = 3 ] || [ $code = 5 ]; do # until all its cells are there; one that hung is missing then
    "$out/chai_bench" "$section" --out "$results" --seconds "${SECTION_SECONDS:-420}" ${flags[@]+"${flags[@]}"} > "$results/$section.log"
    code=$?
  done
  if [ $code != 0 ]; then
    tail -3 "$results/$section.log"
    exit $code
  fi
done
cp "$out/built" "$results/build"
scripts/gpu/merge.sh "$results"
"$out/chai_bench" compare "$committed" "$results/gpu.json"

#!/usr/bin/env bash
# Measures on a GPU, in order of value. In: section names (default: ceilings decode model prefill baselines), options after --. Every section ends
# within 8 minutes and goes on where it stopped when it is called again. Out: build_gpu/results/*.jsonl, merged into build_gpu/results/gpu.json.
set -uo pipefail
cd "$(dirname "$0")/../.."
scripts/gpu/build.sh || exit 1
results=build_gpu/results
mkdir -p "$results"
sections=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  sections+=("$1")
  shift
done
[ $# -gt 0 ] && shift
[ ${#sections[@]} -gt 0 ] || sections=(ceilings decode model prefill baselines)

status=0
for section in "${sections[@]}"; do
  echo "== $section"
  if [ "$section" = baselines ]; then
    "${PYTHON:-python3}" bench/gpu/baselines.py --out "$results" || status=$?
  else
    build_gpu/chai_bench "$section" --out "$results" "$@"
    code=$?
    [ $code = 3 ] && echo "== $section: out of time, call it again to go on"
    [ $code = 0 ] || status=$code
  fi
done
scripts/gpu/merge.sh "$results" > "$results/gpu.json" && echo "merged into $results/gpu.json"
exit $status

#!/usr/bin/env bash
# Measures on a GPU, in order of value. Usage: bench.sh [SECTION...] [-- OPTION...], options as chai_bench has them. In: SECTION_SECONDS (420),
# BUILD, PYTHON, BENCH_FLAGS and BASELINE_FLAGS (more options of chai_bench and of baselines.py). A section goes on where it stopped when it is called again. Out: BUILD/results/*.jsonl, merged into BUILD/results/gpu.json.
# Exit: 0 all measured, 3 out of time in some section (call it again), 4 refused because the device was slowed down, else 1.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
scripts/gpu/build.sh || exit 1
library=$(scripts/gpu/library_path.sh)
[ -z "$library" ] || export LD_LIBRARY_PATH="$library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
read -ra flags <<< "${BENCH_FLAGS:-}"
read -ra baseline_flags <<< "${BASELINE_FLAGS:-}"
out=${BUILD:-build_gpu}
results=$out/results
seconds=${SECTION_SECONDS:-420}
mkdir -p "$results"
# Cells of other sources are no part of this result; what does not depend on them stays.
build=$(cat "$out/built")
known=$(cat "$results/build" 2> /dev/null || echo "$build")
if [ "$known" != "$build" ]; then
  echo "measured by other sources: moved to $results/before-$known"
  mkdir -p "$results/before-$known"
  for section in decode prefill model first products memory soak; do
    [ ! -e "$results/$section.jsonl" ] || mv "$results/$section.jsonl" "$results/before-$known/"
  done
fi
echo "$build" > "$results/build"
sections=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  sections+=("$1")
  shift
done
[ $# -gt 0 ] && shift
[ ${#sections[@]} -gt 0 ] || sections=(ceilings decode model prefill first products memory baselines)

worse() { # statuses: a failure is worse than a refusal, that than time that was up
  local s
  for s in 1 4 3; do
    if [ "$1" = $s ] || [ "$2" = $s ]; then
      echo $s
      return
    fi
  done
  echo $(($1 > $2 ? $1 : $2))
}

status=0
for section in "${sections[@]}"; do
  echo "== $section"
  # A section ends by itself between two cells; a kernel that hangs is killed.
  case $section in
    baselines)
      timeout --foreground -k 10 $((seconds + 180)) "${PYTHON:-python3}" bench/gpu/baselines.py --out "$results" --seconds "$seconds" \
        ${baseline_flags[@]+"${baseline_flags[@]}"} "$@"
      ;;
    *)
      timeout --foreground -k 10 $((seconds + 60)) "$out/chai_bench" "$section" --out "$results" --seconds "$seconds" \
        ${flags[@]+"${flags[@]}"} "$@"
      ;;
  esac
  code=$?
  case $code in
    0) ;;
    3) echo "== $section: out of time, call it again to go on" ;;
    77) code=0 ;; # left out, and said so
    124 | 137) echo "== $section: killed, it hung" ;;
    *) echo "== $section: status $code" ;;
  esac
  case $code in 0 | 3 | 4) ;; *) code=1 ;; esac
  status=$(worse "$status" "$code")
done
scripts/gpu/merge.sh "$results" > "$results/gpu.json" && echo "merged into $results/gpu.json"
exit "$status"

#!/usr/bin/env bash
# Measures on a GPU, in order of value. Usage: bench.sh [SECTION...] [-- OPTION...], options as chai_bench has them. In: SECTION_SECONDS (420), BUILD,
# PYTHON, BENCH_FLAGS and BASELINE_FLAGS (more options of chai_bench and of baselines.py). A section goes on where it stopped when it is called again,
# and behind a cell that hung or failed at once. Out: BUILD/results/*.jsonl, merged into BUILD/results/gpu.json.
# Exit: 0 all measured, 3 out of time in some section, or cells failed that the next call tries once more (call it again), 4 refused because the device
# was slowed down, else 1.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
scripts/gpu/build.sh || exit 1
library=$(scripts/gpu/library_path.sh) # for chai_bench alone: PyTorch brings its own
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
  for section in decode prefill model first products draws memory soak; do
    rm -f "$results/$section.begun"
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
[ ${#sections[@]} -gt 0 ] || sections=(ceilings decode model prefill first products draws memory baselines)

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

run_once() { # section, seconds, options...: a section ends by itself between two cells; what hangs outside of them is killed
  local section=$1 left=$2
  shift 2
  case $section in
    baselines)
      timeout --foreground -k 10 $((left + 180)) "${PYTHON:-python3}" bench/gpu/baselines.py --out "$results" --seconds "$left" \
        ${baseline_flags[@]+"${baseline_flags[@]}"} "$@"
      ;;
    *)
      timeout --foreground -k 10 $((left + 60)) env LD_LIBRARY_PATH="$library${LD_LIBRARY_PATH:+${library:+:}$LD_LIBRARY_PATH}" \
        "$out/chai_bench" "$section" --out "$results" --seconds "$left" ${flags[@]+"${flags[@]}"} "$@"
      ;;
  esac
}

baseline_cells() { # how many there are by now
  local count
  count=$(grep -acv '"baseline/facts/' "$results/baselines.jsonl" 2> /dev/null)
  echo "${count:-0}"
}

status=0
for section in "${sections[@]}"; do
  echo "== $section"
  until=$((SECONDS + seconds))
  failed=0
  restarted=0
  while :; do
    before=$(baseline_cells)
    run_once "$section" $((until > SECONDS ? until - SECONDS : 0)) "$@"
    code=$?
    # A cell that hung is noted; one that ended the process is begun once more, then noted. The rest goes on.
    if [ $code = 5 ]; then
      failed=1
    elif [ $code != 0 ] && [ $code != 3 ] && [ $code != 4 ] && [ -s "$results/$section.begun" ]; then
      echo "== $section: status $code in $(tail -1 "$results/$section.begun")"
      failed=1
    elif [ "$section" = baselines ] && [ $restarted = 0 ] && [ $code != 0 ] && [ $code != 3 ] && [ $code != 77 ] && [ "$(baseline_cells)" -gt "$before" ]; then
      echo "== $section: status $code between two cells, once more"
      failed=1
      restarted=1
    else
      break
    fi
    if [ $SECONDS -ge $until ]; then
      code=3
      break
    fi
  done
  case $code in
    0) ;;
    3) echo "== $section: not all measured, call it again to go on" ;;
    77) code=0 ;; # left out, and said so
    124 | 137) echo "== $section: killed, it hung" ;;
    *) echo "== $section: status $code" ;;
  esac
  case $code in 0 | 3 | 4) ;; *) code=1 ;; esac
  [ $failed = 1 ] && [ $code = 0 ] && code=1
  status=$(worse "$status" "$code")
done
scripts/gpu/merge.sh "$results" && echo "merged into $results/gpu.json"
exit "$status"

#!/usr/bin/env bash
# Tests on a GPU, in order of value. In: section names (default: all below), SECTION_SECONDS (420: no test is begun after that), GROUP_SECONDS (75: of
# one group of tests; four times that under a sanitizer), SOAK_SECONDS (120; at most SECTION_SECONDS), BUILD. Out: BUILD/results/tests.jsonl, one line a
# group of tests; groups that passed with the present build are not run again, those that failed after the others. Exit: 1 on a failure, 3 when time was
# up (call it again to go on), else 0; what cannot be run here is said and left out.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
scripts/gpu/build.sh || exit 1
library=$(scripts/gpu/library_path.sh)
[ -z "$library" ] || export LD_LIBRARY_PATH="$library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
read -ra flags <<< "${BENCH_FLAGS:-}" # more options of chai_bench
out=${BUILD:-build_gpu}
results=$out/results
tests=$out/chai_cuda_tests
bench=$out/chai_bench
logs=$results/logs
mkdir -p "$logs"
build=$(cat "$out/built")
PATH=$PATH:/usr/local/cuda/bin # compute-sanitizer
sections=("$@")
[ ${#sections[@]} -gt 0 ] || sections=(kernels model device reference hopper addon soak memcheck racecheck initcheck synccheck)

# Names select the tests that contain them (test/native/main.cpp): those of kernels by the first word after cuda_, so that none is forgotten.
mapfile -t kernels < <(cat test/cuda/*_test.cpp | grep -oE '^TEST\(cuda_[a-z0-9]+' | cut -c6- | sort -u | grep -vE '^cuda_(backend|fixtures|hopper)$')
# What a sanitizer makes ten to a hundred times slower: one small test of every kind of kernel, and a whole model.
few=(cuda_decode_short cuda_embed cuda_prefill_sliding cuda_qkv_few cuda_draws_of cuda_warm_up_under cuda_output cuda_feed cuda_backend_every
  cuda_hopper_one)

groups_of() { # section: its groups of tests
  case $1 in
    kernels) echo "${kernels[@]}" ;;
    model) echo cuda_backend cuda_fixtures ;;
    device) echo gpu_memory gpu_fault ;;
    hopper) echo cuda_hopper ;;
    memcheck | racecheck | initcheck | synccheck) echo "${few[@]}" ;;
    reference | addon | soak) echo "$1" ;;
    *) return 1 ;;
  esac
}

addon() { # greedy text through Node on the device equals the CPU's
  local said=() device
  if ! command -v node > /dev/null || [ ! -e dist/cli/main.js ]; then
    echo "no Node or no dist/: left out"
    return 77
  fi
  for device in cpu cuda; do
    said+=("$(node dist/cli/main.js generate models/starter --device "$device" --temperature 0 --max-tokens 40)") || return 1
  done
  [ "${said[0]}" = "${said[1]}" ] && [ -n "${said[0]}" ] && echo "1 passed, 0 failed"
}

child= # the timeout that runs, and what marks its processes
mark=
end_marked() { # all that a run began: a sanitizer starts the program it watches as a process of its own, maybe in another group
  local file
  for file in /proc/[0-9]*/environ; do
    if grep -zqsx "CHAI_TEST_RUN=$mark" "$file"; then kill -KILL "$(basename "$(dirname "$file")")" 2> /dev/null; fi
  done
}
limited() { # seconds, command...: in a group of its own, so that all of it is ended
  local code
  mark=$$-$SECONDS-$RANDOM
  CHAI_TEST_RUN=$mark timeout -k 10 "$@" &
  child=$!
  wait "$child"
  code=$?
  child=
  if [ $code = 124 ] || [ $code = 137 ]; then end_marked; fi
  return $code
}
broken_off() { # by a signal
  trap - TERM INT
  if [ -n "$child" ]; then
    kill "$child" 2> /dev/null
    end_marked
  fi
  exit 143
}
trap broken_off TERM INT

limit=${GROUP_SECONDS:-75}
soak_seconds=${SOAK_SECONDS:-120} # at most the section's
[ "$soak_seconds" -le "${SECTION_SECONDS:-420}" ] || soak_seconds=${SECTION_SECONDS:-420}
run_group() { # section, group
  case $1 in
    kernels | model | device | hopper) limited "$limit" "$tests" "$2" ;;
    memcheck | racecheck | initcheck | synccheck)
      if ! command -v compute-sanitizer > /dev/null; then
        echo "compute-sanitizer is not on PATH: left out"
        return 77
      fi
      limited $((4 * limit)) compute-sanitizer --tool "$1" --error-exitcode 9 "$tests" "$2"
      ;;
    reference) limited $((2 * limit)) "${PYTHON:-python3}" test/gpu/reference.py --bench "$bench" ;;
    addon) addon ;;
    soak) limited $((soak_seconds + 120)) "$bench" soak --seconds "$soak_seconds" --out "$results" ${flags[@]+"${flags[@]}"} ;;
  esac
}

note() { # section, group, status, seconds
  local counts passed failed
  counts=$(grep -aoE '[0-9]+ passed, [0-9]+ failed' "$logs/$1-$2.log" | tail -1)
  passed=${counts%% *}
  failed=$(echo "$counts" | cut -d' ' -f3)
  printf '{"cell":"test/%s/%s","section":"%s","build":"%s","status":%d,"seconds":%d,"passed":%d,"failed":%d}\n' "$1" "$2" "$1" "$build" "$3" "$4" \
    "${passed:-0}" "${failed:-0}" >> "$results/tests.jsonl"
}

tried() { # section, group, start of a status: whether this build's line is there
  grep -qs "\"cell\":\"test/$1/$2\",\"section\":\"$1\",\"build\":\"$build\",\"status\":$3" "$results/tests.jsonl"
}

status=0
for section in "${sections[@]}"; do
  if ! groups=$(groups_of "$section"); then
    echo "unknown section $section" >&2
    exit 2
  fi
  started=$SECONDS
  untried=()
  failed=()
  for group in $groups; do
    if tried "$section" "$group" 0,; then continue; fi
    if tried "$section" "$group" ""; then failed+=("$group"); else untried+=("$group"); fi
  done
  for group in ${untried[@]+"${untried[@]}"} ${failed[@]+"${failed[@]}"}; do
    if [ $((SECONDS - started)) -ge "${SECTION_SECONDS:-420}" ]; then
      echo "== $section: out of time, call it again to go on"
      [ $status = 1 ] || status=3
      break
    fi
    echo "== $section $group"
    before=$SECONDS
    run_group "$section" "$group" > "$logs/$section-$group.log" 2>&1
    code=$?
    note "$section" "$group" $code $((SECONDS - before))
    if [ $code = 77 ]; then
      tail -1 "$logs/$section-$group.log"
    elif [ $code != 0 ]; then
      status=1
      tail -40 "$logs/$section-$group.log"
      echo "== $section $group: FAILED ($code; 124 and 137: it hung) after $((SECONDS - before)) s"
    else
      tail -1 "$logs/$section-$group.log"
    fi
  done
done
exit $status

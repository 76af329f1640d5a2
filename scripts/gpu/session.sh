#!/usr/bin/env bash
# All that a machine with a GPU has to tell, in order of value, within a number of minutes. Usage: session.sh [--minutes M (9)] [--collect FOLDER]
# [--go-on]. Call it again and again: what is done is not done twice. In: BUILD (build_gpu), as bench.sh and test.sh; executables that build.sh made of
# the same sources elsewhere are taken as they are. Out: BUILD/results, copied into FOLDER (default: $OUT, else nowhere) as few small files after every
# step and every 30 s (GATHER_SECONDS) in one; unpacked into BUILD they let another machine go on. Exit: 0 all done, 3 call it again, 1 something failed
# (the rest was done or tried, unless the kernels' own tests failed: then nothing is measured without --go-on).
#
# A machine for half an hour, its starts and transfers included:
#   1. Here, where no GPU is needed: scripts/gpu/build.sh. Take along the tracked files, BUILD/chai_bench, BUILD/chai_cuda_tests and BUILD/built.
#   2. session.sh --minutes 4: whether the kernels are right, the ceilings, the first cells. Look at the log before the next call.
#   3. session.sh --minutes 9, twice, the second time where enough is left.
#   4. session.sh --minutes M for the rest, M = (seconds left of the half hour - 60) / 60.
#   After each call, at once: tar -xzf FOLDER/results.tar.gz -C BUILD, and take BUILD/results along in the next. What was not unpacked is measured again.
#   5. cp BUILD/results/gpu.json bench/results/gpu-NAME.json, then node scripts/gpu/charts.mjs bench/results/gpu-NAME.json.
#
#     step                                              minutes on one H200 (expected)
#     look, smoke, build                                0.3 where executables were brought along, else 2 (16 cores)
#     kernel tests, whole-model tests                   1.5    nothing else where they fail
#     ceilings, matmul                                  0.5
#     decode attention (cells with a bar come first)    2
#     whole step                                        2.5    loads 13 GB of random weights first
#     prefill attention                                 1
#     tests for Hopper, prefill with those kernels      0.5 + 1
#     time to first token, with and without cuBLAS      2
#     SDPA on the same shapes, prefill then decode      1 + 2
#     transformers                                      5
#     products of a layer, drawing tokens               1 + 0.3
#     memory by allocator and by nvidia-smi             1
#     transformers' logits, torch.compile               0.5 + 4
#     device tests, soak                                0.5 + 1
#     memcheck, racecheck, initcheck, synccheck         1 to 2 each, on few tests
#     the addon                                         0.5
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
minutes=9
collect=${OUT:-}
go_on=0
while [ $# -gt 0 ]; do
  case $1:${2-} in
    --go-on:*) go_on=1 ;;
    --minutes:?*)
      minutes=$2
      shift
      ;;
    --collect:?*)
      collect=$2
      shift
      ;;
    *)
      echo "usage: session.sh [--minutes M] [--collect FOLDER] [--go-on]" >&2
      exit 2
      ;;
  esac
  shift
done
until=$((SECONDS + $(awk "BEGIN { print int($minutes * 60) }")))
out=${BUILD:-build_gpu}
results=$out/results
mkdir -p "$results"
log=$results/session.log
host=${CHAI_ARCH:-}
failed=0
open=0

say() { echo "$(date +%T) $*" | tee -a "$log"; }
left() { echo $((until - SECONDS)); }

gather() { # few files, no deeper than FOLDER, each of them whole at every moment
  scripts/gpu/merge.sh "$results" || true
  [ -n "$collect" ] || return 0
  local part=$collect/.part-$BASHPID
  mkdir -p "$collect"
  tar -czf "$part" -C "$out" results 2> /dev/null # 1 when a file grew meanwhile: what was there is in it
  mv "$part" "$collect/results.tar.gz"
  for file in "$results/gpu.json" "$log"; do
    cp "$file" "$part" && mv "$part" "$collect/$(basename "$file")"
  done
}
working= # processes of a step
watcher=
reader=
stop() {
  [ -z "$1" ] || kill "$1" 2> /dev/null
  [ -z "$1" ] || wait "$1" 2> /dev/null
}
trap 'stop "$working"; stop "$watcher"; stop "$reader"; gather; [ -z "$collect" ] || rm -f "$collect"/.part-*' EXIT
trap 'exit 143' TERM INT

# step NAME MINUTES COMMAND...: what ended well is not begun again, nor what failed twice; what ran out of time is, in the next call, as is what was refused
# because the device was slowed down. COMMAND gets SECTION_SECONDS: its share of the time that is left. `least` (seconds): with less it is not begun.
step() {
  local name=$1 seconds=$(($2 * 60)) cut=0 code before=$SECONDS over failures
  shift 2
  over="$results/.done-$name-$(cat "$out/built")"
  failures="$results/.failed-$name-$(cat "$out/built")"
  [ -e "$over" ] && return 0
  if [ -e "$failures" ]; then # once more when all else was done, in this call or a later one
    failed=1
    if [ $again = 0 ] || [ "$(wc -l < "$failures")" -ge 2 ]; then return 0; fi
  elif [ $again = 1 ]; then
    return 0
  fi
  if [ "$(left)" -lt "${LEAST_SECONDS:-${least:-45}}" ]; then
    open=1
    return 0
  fi
  if [ "$(left)" -lt "$seconds" ]; then
    seconds=$(left)
    cut=1 # it may be the call's end that stops it, not a kernel that hangs
  fi
  say "-- $name (at most $seconds s)"
  export SECTION_SECONDS=$((seconds > 90 ? seconds - 30 : seconds * 2 / 3))
  (
    trap 'kill $!; exit 0' TERM
    while sleep "${GATHER_SECONDS:-30}" & wait $!; do gather; done
  ) > /dev/null 2>&1 &
  watcher=$!
  timeout -k 5 "$seconds" "$@" > "$results/$name.log" 2>&1 &
  working=$!
  wait "$working" # so that a signal is answered at once
  code=$?
  working=
  stop "$watcher"
  watcher=
  case $code in
    0) touch "$over" ;;
    3 | 4) open=1 ;;
    124 | 137) if [ $cut = 1 ]; then open=1; else failed=1 && echo "$code" >> "$failures"; fi ;;
    *)
      failed=1
      echo "$code" >> "$failures"
      ;;
  esac
  grep -aE '^(FAILED|  .*CHECK|==.*(FAILED|killed|status)|.*(refused|left out|out of time|once more|output is wrong|"error":"throttled"))' "$results/$name.log" | uniq | tail -12 | cut -c1-220 | tee -a "$log"
  say "-- $name: status $code after $((SECONDS - before)) s"
  gather
}

look() {
  nvidia-smi
  nvidia-smi -q -d CLOCK,POWER,PERFORMANCE,MEMORY,TEMPERATURE
  uname -a
  nproc
  free -g
  command -v nvcc ncu compute-sanitizer node python3 g++
  nvcc --version
  python3 -c 'from importlib.metadata import version; print(version("torch"), version("transformers"))' # no import: that takes long
  return 0
}

smoke() { # before minutes of compiling
  local compiler=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
  if ! command -v "$compiler"; then
    echo "no nvcc: only executables that were brought along can be used"
    return 0
  fi
  "$compiler" -std=c++20 -o "$out/smoke" scripts/gpu/smoke.cu && timeout -k 5 120 "$out/smoke"
}

first_kernel() { # of the executables
  timeout -k 5 120 "$out/chai_cuda_tests" cuda_embed
}

# With one reader the driver stays awake: a hundred short processes do not each wait for the device to be set up. It only asks.
if command -v nvidia-smi > /dev/null; then
  nvidia-smi -l 20 > /dev/null 2>&1 &
  reader=$!
fi
[ -e "$results/machine.txt" ] || look > "$results/machine.txt" 2>&1
chmod +x scripts/gpu/*.sh "$out"/chai_* 2> /dev/null # copies may lose it
ran= # the build whose first kernel ran
if [ -e "$out/built" ] && first_kernel > "$results/first.log" 2>&1; then
  ran=$(cat "$out/built")
elif [ "$host" != host ] && [ ! -e "$results/.smoke" ]; then
  if smoke >> "$log" 2>&1; then
    touch "$results/.smoke"
  else
    tail -5 "$log"
    say "no kernel runs on this machine: nothing else was tried"
    exit 1
  fi
fi
say "building"
if ! timeout -k 5 "$(left)" scripts/gpu/build.sh > "$results/build.log" 2>&1; then
  grep -aE 'error|fatal|^no ' "$results/build.log" | head -20 | tee -a "$log"
  say "the build failed or was cut off: $results/build.log"
  exit 1
fi
say "$(tail -1 "$results/build.log")"
if [ "$ran" != "$(cat "$out/built")" ] && ! first_kernel > "$results/first.log" 2>&1; then
  tail -5 "$results/first.log" | tee -a "$log"
  say "the first kernel failed; the rest is tried all the same"
  failed=1
fi

bench=scripts/gpu/bench.sh
test=scripts/gpu/test.sh
passed() { [ -e "$results/.done-$1-$(cat "$out/built")" ]; }
# What kernels do is only worth measuring when it is right. A test that failed is tried once more at once: the first may have met what passes.
right() { # test steps...
  local name
  for name in "$@"; do
    if [ ! -e "$results/.failed-$name-$(cat "$out/built")" ] || passed "$name"; then continue; fi
    again=1 step "$name" 4 $test "${name#test-}"
    passed "$name" || return 1
  done
}
all_steps() {
  step test-kernels 4 $test kernels
  step test-model 4 $test model
  if [ $go_on = 0 ] && ! right test-kernels test-model; then return 1; fi
  step ceilings 2 $bench ceilings
  step matmul 2 $bench baselines -- --sections matmul
  step decode 4 $bench decode
  step model 5 $bench model
  step prefill 3 $bench prefill
  step test-hopper 3 $test hopper
  local hopper=1
  if [ $go_on = 0 ] && ! right test-hopper; then
    hopper=0
    [ $again = 1 ] || say "the kernels for Hopper fail their tests: not measured without --go-on"
  fi
  [ "$host" = host ] || [ $hopper = 0 ] || step prefill-sm90 3 $bench prefill -- --sm90
  step first 4 $bench first
  step first-own 3 $bench first -- --own --only /2048
  [ $hopper = 0 ] || step first-sm90 3 $bench first -- --sm90 --only /2048
  step sdpa-prefill 2 $bench baselines -- --sections prefill
  step sdpa-decode 4 $bench baselines -- --sections decode
  step transformers 6 $bench baselines -- --sections eager,sdpa
  step products 3 $bench products
  step draws 2 $bench draws
  step memory 3 $bench memory
  step test-reference 3 $test reference
  least=150 step compile 4 $bench baselines -- --sections compile
  [ "$host" = host ] || step test-device 3 $test device
  step test-soak 3 env "SOAK_SECONDS=${SOAK_SECONDS:-60}" $test soak
  for tool in memcheck racecheck initcheck synccheck; do step "test-$tool" 6 $test $tool; done
  step test-addon 2 $test addon
}
again=0
if ! all_steps; then
  say "the kernels fail their tests: nothing is measured. See the lines above and $results/logs; --go-on measures all the same"
  exit 1
fi
again=1
[ $open = 1 ] || all_steps
say "$([ $open = 1 ] && echo 'time is up, call it again to go on' || echo 'all was done or tried')"
[ $failed = 1 ] && exit 1
[ $open = 1 ] && exit 3
exit 0

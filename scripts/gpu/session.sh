#!/usr/bin/env bash
# All that a machine with a GPU has to tell, in order of value, within a number of minutes. Usage: session.sh [--minutes M (9)] [--collect FOLDER].
# Call it again and again: what is done is not done twice. In: BUILD (build_gpu), as bench.sh and test.sh. Out: BUILD/results, after every call copied
# into FOLDER (default: $OUT, else nowhere) as few small files. Exit: 0 all done, 3 call it again, 1 something failed (the rest was done or tried).
#
#     step                                              minutes on one H200 (expected)
#     look, smoke, build                                0.3 where executables were brought along, else 2 (16 cores)
#     kernel tests, whole-model tests                   1.5
#     ceilings, matmul                                  0.5
#     decode attention (cells with a bar come first)    2
#     whole step                                        2.5    loads 13 GB of random weights first
#     prefill attention                                 1
#     tests for Hopper, prefill with those kernels      0.5 + 1
#     time to first token, with and without cuBLAS      2
#     SDPA on the same shapes; transformers             2 + 4
#     products of a layer                               1
#     memory by allocator and by nvidia-smi             1
#     device tests, transformers' logits                0.5
#     memcheck, racecheck, initcheck, synccheck         1 to 2 each, on few tests
#     soak; torch.compile; the addon                    2 + 3 + 0.5
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
minutes=9
collect=${OUT:-}
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=$2 ;;
    --collect) collect=$2 ;;
    *)
      echo "usage: session.sh [--minutes M] [--collect FOLDER]" >&2
      exit 2
      ;;
  esac
  shift 2
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

gather() { # few files, no deeper than FOLDER
  scripts/gpu/merge.sh "$results" > "$results/gpu.json" || true
  [ -n "$collect" ] || return 0
  mkdir -p "$collect"
  cp "$results/gpu.json" "$log" "$collect/"
  tar -czf "$collect/results.tar.gz" -C "$out" results
}
trap gather EXIT

# step NAME MINUTES COMMAND...: what ended well is not begun again, nor what failed twice; what ran out of time is, in the next call. COMMAND gets
# SECTION_SECONDS: its share of the time that is left.
step() {
  local name=$1 seconds=$(($2 * 60)) cut=0 code before=$SECONDS over failures
  shift 2
  over="$results/.done-$name-$(cat "$out/built")"
  failures="$results/.failed-$name-$(cat "$out/built")"
  [ -e "$over" ] && return 0
  if [ -e "$failures" ] && [ "$(wc -l < "$failures")" -ge 2 ]; then
    failed=1
    return 0
  fi
  if [ "$(left)" -lt "${LEAST_SECONDS:-45}" ]; then
    open=1
    return 0
  fi
  if [ "$(left)" -lt "$seconds" ]; then
    seconds=$(left)
    cut=1 # it may be the call's end that stops it, not a kernel that hangs
  fi
  say "-- $name (at most $seconds s)"
  export SECTION_SECONDS=$((seconds > 90 ? seconds - 30 : seconds * 2 / 3)) GROUP_SECONDS=$seconds
  timeout -k 5 "$seconds" "$@" > "$results/$name.log" 2>&1
  code=$?
  case $code in
    0) touch "$over" ;;
    3) open=1 ;;
    124 | 137) if [ $cut = 1 ]; then open=1; else failed=1 && echo "$code" >> "$failures"; fi ;;
    *)
      failed=1
      echo "$code" >> "$failures"
      ;;
  esac
  grep -aE '^(FAILED|  .*CHECK|==.*(FAILED|killed|status)|.*(refused|left out|out of time))' "$results/$name.log" | uniq | tail -12 | cut -c1-220 | tee -a "$log"
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
  python3 -c 'import torch, transformers; print(torch.__version__, transformers.__version__)'
  return 0
}

smoke() {
  [ "$host" = host ] && return 0
  local compiler=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
  "$compiler" -std=c++20 -o "$out/smoke" scripts/gpu/smoke.cu && "$out/smoke"
}

[ -e "$results/machine.txt" ] || look > "$results/machine.txt" 2>&1
if [ ! -e "$results/.smoke" ]; then
  if smoke >> "$log" 2>&1; then
    touch "$results/.smoke"
  else
    say "no kernel runs on this machine: nothing else was tried"
    tail -5 "$log"
    exit 1
  fi
fi
tail -2 "$log"
say "building"
if ! timeout -k 5 "$(left)" scripts/gpu/build.sh > "$results/build.log" 2>&1; then
  grep -aE 'error|fatal' "$results/build.log" | head -20 | tee -a "$log"
  say "the build failed or was cut off: $results/build.log"
  exit 1
fi
say "$(tail -1 "$results/build.log")"
say "$(timeout -k 5 120 "$out/chai_cuda_tests" cuda_embed 2>&1 | tail -1)"

bench=scripts/gpu/bench.sh
test=scripts/gpu/test.sh
step test-kernels 4 $test kernels
step test-model 4 $test model
step ceilings 2 $bench ceilings
step matmul 2 $bench baselines -- --sections matmul
step decode 4 $bench decode
step model 5 $bench model
step prefill 3 $bench prefill
step test-hopper 3 $test hopper
[ "$host" = host ] || step prefill-sm90 3 $bench prefill -- --sm90
step first 4 $bench first
step first-own 3 $bench first -- --own --only /2048
step first-sm90 3 $bench first -- --sm90 --only /2048
step sdpa 4 $bench baselines -- --sections decode,prefill
step transformers 6 $bench baselines -- --sections eager,sdpa
step products 3 $bench products
step memory 3 $bench memory
step test-device 3 $test device
step test-reference 3 $test reference
for tool in memcheck racecheck initcheck synccheck; do step "test-$tool" 6 $test $tool; done
step test-soak 4 $test soak
step compile 6 $bench baselines -- --sections compile
step test-addon 2 $test addon
say "$([ $open = 1 ] && echo 'time is up, call it again to go on' || echo 'all was done or tried')"
[ $failed = 1 ] && exit 1
[ $open = 1 ] && exit 3
exit 0

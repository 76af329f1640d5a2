#!/usr/bin/env bash
# Tests on a GPU, in order of value. In: section names (default: kernels model memcheck racecheck initcheck synccheck soak), SOAK_SECONDS (120).
# Out: build_gpu/results/tests.jsonl, one line a section; a section that passed with the present build is not run again. Exit: 1 on a failure.
set -uo pipefail
cd "$(dirname "$0")/../.."
scripts/gpu/build.sh || exit 1
results=build_gpu/results
mkdir -p "$results"
tests=build_gpu/chai_cuda_tests
build=$(sha256sum "$tests" | cut -c1-16)
sections=("$@")
[ ${#sections[@]} -gt 0 ] || sections=(kernels model memcheck racecheck initcheck synccheck soak)

used_mib() { nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2> /dev/null | head -1; }

sanitize() { # tool, test names...
  local tool=$1 name
  shift
  if ! command -v compute-sanitizer > /dev/null; then
    echo "compute-sanitizer is not on PATH"
    return 77
  fi
  for name in "$@"; do
    timeout 400 compute-sanitizer --tool "$tool" --error-exitcode 9 "$tests" "$name" || return 1
  done
}

soak() { # the whole-model cases again and again; used memory must not grow
  local until=$((SECONDS + ${SOAK_SECONDS:-120})) first="" last=""
  while [ $SECONDS -lt $until ]; do
    "$tests" cuda_backend > /dev/null || return 1
    last=$(used_mib)
    [ -n "$first" ] || first=$last
  done
  echo "used after the first round ${first:-?} MiB, after the last ${last:-?} MiB"
  [ -z "$first" ] || [ "$last" -le $((first + 64)) ]
}

kernels=(cuda_decode cuda_prefill cuda_attention cuda_warm cuda_membership cuda_qkv cuda_embed cuda_output cuda_feed cuda_logits cuda_products
  cuda_bits cuda_draws)
few=(cuda_decode_short cuda_prefill_sliding cuda_warm cuda_qkv_few cuda_qkv_warm cuda_embed cuda_draws_of cuda_backend_every)

each_of() { # test names...
  local name status=0
  for name in "$@"; do "$tests" "$name" || status=1; done
  return $status
}

run_section() {
  case $1 in
    kernels) each_of "${kernels[@]}" ;;
    model) each_of cuda_backend ;;
    memcheck | racecheck | initcheck | synccheck) sanitize "$1" "${few[@]}" ;;
    soak) soak ;;
    *)
      echo "unknown section $1" >&2
      return 2
      ;;
  esac
}

failed=0
for section in "${sections[@]}"; do
  if grep -qs "\"section\":\"$section\",\"build\":\"$build\",\"status\":0" "$results/tests.jsonl"; then
    echo "== $section: passed already with this build"
    continue
  fi
  echo "== $section"
  started=$SECONDS
  run_section "$section" 2>&1 | tee "$results/test-$section.log"
  status=${PIPESTATUS[0]}
  summary=$(grep -oE '[0-9]+ passed, [0-9]+ failed' "$results/test-$section.log" | awk '{ p += $1; f += $3 } END { print p + 0 " passed, " f + 0 " failed" }')
  printf '{"section":"%s","build":"%s","status":%d,"seconds":%d,"summary":"%s"}\n' "$section" "$build" "$status" $((SECONDS - started)) \
    "$summary" >> "$results/tests.jsonl"
  if [ "$status" = 77 ]; then
    echo "== $section: left out"
  elif [ "$status" != 0 ]; then
    echo "== $section: FAILED ($status)"
    failed=1
  fi
done
exit $failed

#!/usr/bin/env bash
# Builds plain executables for a machine with a GPU, which needs neither Node nor CMake. In: nvcc, g++, CHAI_ARCH (default: the device's own, else
# 90a), JOBS. Out: build_gpu/chai_cuda_tests, build_gpu/chai_bench. Only what changed is compiled again.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=build_gpu
mkdir -p "$out/objects"

nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if ! command -v "$nvcc" > /dev/null; then
  echo "no nvcc: install the CUDA toolkit or set CUDACXX" >&2
  exit 1
fi
if [ -z "${CHAI_ARCH:-}" ]; then
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -1 | tr -d '. ' || true)
  CHAI_ARCH=${capability:-90}
  [ "$CHAI_ARCH" = 90 ] && CHAI_ARCH=90a
fi
jobs=${JOBS:-$(nproc)}
device_flags="-std=c++20 -O3 -lineinfo -gencode arch=compute_${CHAI_ARCH},code=sm_${CHAI_ARCH} -Xcompiler=-fno-strict-aliasing -Icuda -Inative"
device_flags="$device_flags -Itest/native -Itest/cuda -Ibench/gpu"
host_flags="-std=c++20 -O3 -ffp-contract=off -fno-strict-aliasing -pthread -Inative -Icuda -Itest/native"

# Anything newer than its object, or any header newer than the oldest object, is compiled.
newest_header=$(find native cuda test/native test/cuda bench/gpu -name '*.h' -o -name '*.cuh' | xargs ls -t | head -1)
todo=$(mktemp)
trap 'rm -f "$todo"' EXIT
objects_of() { # compiler, flags, group, sources...
  local compiler=$1 flags=$2 group=$3 source object
  shift 3
  for source in "$@"; do
    object="$out/objects/$group-$(echo "$source" | tr '/.' '__').o"
    echo "$object"
    if [ ! -e "$object" ] || [ "$source" -nt "$object" ] || [ "$newest_header" -nt "$object" ]; then
      local extra=""
      case $source in
        *kernels_avx2.cpp) extra="-mavx2 -mfma -mf16c" ;;
        *kernels_avx512.cpp) extra="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c" ;;
      esac
      # An interrupted compiler leaves no object behind.
      echo "$compiler $flags $extra -c $source -o $object.part && mv $object.part $object" >> "$todo"
    fi
  done
}

native_sources=$(ls native/*.cpp native/cpu/*.cpp native/platform/posix.cpp native/platform/linux.cpp)
case $(uname -m) in
  x86_64) native_sources=$(echo "$native_sources" | grep -v kernels_neon) ;;
  aarch64) native_sources=$(echo "$native_sources" | grep -v kernels_avx) ;;
  *) native_sources=$(echo "$native_sources" | grep -v -e kernels_neon -e kernels_avx) ;;
esac
cuda_sources=$(ls cuda/*.cu cuda/*.cpp | grep -v cuda/absent.cpp)
test_sources=$(ls test/cuda/*_test.cpp | grep -v shim_test)
bench_sources=$(ls bench/gpu/*.cu bench/gpu/*.cpp)

# shellcheck disable=SC2086
{
  engine=$(objects_of "${CXX:-g++}" "$host_flags" host $native_sources test/native/main.cpp | grep -v native_main)
  main=$out/objects/host-test_native_main_cpp.o
  kernels=$(objects_of "$nvcc" "$device_flags -x cu" cuda $cuda_sources)
  tests=$(objects_of "$nvcc" "$device_flags -x cu" test $test_sources)
  bench=$(objects_of "$nvcc" "$device_flags -x cu" bench $bench_sources)
}
count=$(wc -l < "$todo")
if [ "$count" -gt 0 ]; then
  echo "compiling $count files for sm_$CHAI_ARCH, $jobs at a time"
  xargs -a "$todo" -d '\n' -P "$jobs" -I{} bash -c '{}'
fi
# shellcheck disable=SC2086
"$nvcc" $engine $main $kernels $tests -o "$out/chai_cuda_tests" -Xcompiler=-pthread -ldl
# shellcheck disable=SC2086
"$nvcc" $engine $kernels $bench -o "$out/chai_bench" -Xcompiler=-pthread -ldl
echo "built $out/chai_cuda_tests and $out/chai_bench"

#!/usr/bin/env bash
# Builds plain executables for a machine with a GPU; needs neither Node nor CMake. In: nvcc, g++; CHAI_ARCH (default: the device's own, else 90a;
# to try everything without a GPU, host: the kernels as C++ on the CPU, or ptx90a, ptx80: what nvcc makes of them, which test/ptx runs on the CPU),
# JOBS, BUILD (default build_gpu), TARGETS (default: chai_cuda_tests chai_bench). Out: BUILD/chai_cuda_tests and BUILD/chai_bench. What is there for
# the same sources is kept, so executables made on another machine serve too.
set -euo pipefail
cd "$(dirname "$0")/../.."
host=0
emulated=0
case ${CHAI_ARCH:-} in
  host) host=1 ;;
  ptx*) emulated=1 ;;
esac
out=${BUILD:-build_gpu}
targets=${TARGETS:-chai_cuda_tests chai_bench}
mkdir -p "$out/objects"
echo '*' > "$out/.gitignore"

folders=(native cuda test/native test/cuda test/gpu bench/gpu)
if [ $host = 1 ]; then
  folders+=(test/simt)
  host_flags="-O1"
elif [ $emulated = 1 ]; then
  folders+=(test/ptx)
  host_flags="-O1"
elif [ -z "${CHAI_ARCH:-}" ]; then
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -1 | tr -cd '0-9' || true)
  CHAI_ARCH=${capability:-90}
  if [ "$CHAI_ARCH" = 90 ]; then CHAI_ARCH=90a; fi
fi
include=""
for folder in cuda native "${folders[@]}"; do include="$include -I$folder"; done
host_flags="-std=c++20 ${host_flags:--O3} -ffp-contract=off -fno-strict-aliasing -pthread $include"
if [ $emulated = 1 ]; then
  code="arch=compute_${CHAI_ARCH#ptx},code=compute_${CHAI_ARCH#ptx}"
  device_flags="-O1 --no-compress" # -O is of the host's half alone
else # compressed, since executables are brought to other machines: a tenth of the size
  code="arch=compute_${CHAI_ARCH:-},code=sm_${CHAI_ARCH:-}"
  device_flags="-O3 --compress-mode=size"
fi
device_flags="-std=c++20 $device_flags -lineinfo -gencode $code"
device_flags="$device_flags -Xcompiler=-fno-strict-aliasing,-ffp-contract=off"
device_flags="$device_flags $include -x cu"

# The same sources and flags were built already, here or on another machine?
tree=$({
  echo "$CHAI_ARCH $host_flags $device_flags"
  find "${folders[@]}" -type f \( -name '*.h' -o -name '*.cuh' -o -name '*.cu' -o -name '*.cpp' \) | LC_ALL=C sort | xargs sha256sum
} | sha256sum | cut -c1-32)
runs() { # an executable starts on this machine: it says how it is used
  local status=0
  chmod +x "$out/$1" 2> /dev/null || return 1
  "$out/$1" --help > /dev/null 2>&1 || status=$?
  [ $status = 1 ] || [ $status = 2 ] # not "no such file", "no such instruction"
}
kept=1
for target in $targets; do runs "$target" || kept=0; done
if [ $emulated = 1 ] && [ ! -e "$out/libcublas.so.13" ]; then kept=0; fi
if [ $kept = 1 ] && [ "$(cat "$out/built" 2> /dev/null || true)" = "$tree" ]; then
  echo "$out holds what these sources give for $CHAI_ARCH"
  exit 0
fi

cxx=${CXX:-g++}
if ! command -v "$cxx" > /dev/null; then
  echo "no $cxx: install a C++20 compiler or set CXX" >&2
  exit 1
fi
if [ $host = 1 ]; then
  nvcc="$cxx"
  device_flags="$host_flags -Wno-unknown-pragmas -x c++"
else
  nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
  if ! command -v "$nvcc" > /dev/null; then
    echo "no nvcc: install the CUDA toolkit or set CUDACXX" >&2
    exit 1
  fi
fi
versions=$("$cxx" --version | head -1; "$nvcc" --version | tail -1)

# An object is compiled again when a file it was made of, its flags or the compiler changed; times do not matter, they change with every copy.
files_of() { # object base name: what it was made of, system headers left out
  sed 's/\\$//' "$out/objects/$1.d" | tr ' ' '\n' | grep -E '^[^/].*\.(h|cuh|cu|cpp)$' | LC_ALL=C sort -u
}
key_of() { # object base name, flags
  [ -s "$out/objects/$1.d" ] || return 0
  {
    echo "$versions $2"
    files_of "$1" | xargs sha256sum 2> /dev/null || echo gone
  } | sha256sum
}
todo=$(mktemp)
trap 'rm -f "$todo"' EXIT
plan_objects() { # compiler, flags, group, sources...: appends to `objects`, and to the list of what to compile
  local compiler=$1 flags=$2 group=$3 source name extra
  shift 3
  objects=""
  for source in "$@"; do
    name="$group-$(echo "$source" | tr '/.' '__')"
    objects="$objects $out/objects/$name.o"
    extra=""
    case $source in
      *kernels_avx2.cpp) extra="-mavx2 -mfma -mf16c" ;;
      *kernels_avx512.cpp) extra="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c" ;;
    esac
    if [ -e "$out/objects/$name.o" ] && [ "$(cat "$out/objects/$name.key" 2> /dev/null)" = "$(key_of "$name" "$flags $extra")" ]; then continue; fi
    rm -f "$out/objects/$name.key"
    printf '%s\t%s\t%s\n' "$name" "$flags $extra" "$compiler $flags $extra -MMD -MF $out/objects/$name.d -MT $name -c $source -o $out/objects/$name.part && mv $out/objects/$name.part $out/objects/$name.o" >> "$todo"
  done
}

native_sources=$(ls native/*.cpp native/cpu/*.cpp native/platform/posix.cpp native/platform/linux.cpp)
case $(uname -m) in
  x86_64) native_sources=$(echo "$native_sources" | grep -v kernels_neon) ;;
  aarch64) native_sources=$(echo "$native_sources" | grep -v kernels_avx) ;;
  *) native_sources=$(echo "$native_sources" | grep -v -e kernels_neon -e kernels_avx) ;;
esac
# What only a device has stays out of the host's build, and the shim's own tests out of the device's.
if [ $host = 1 ]; then
  cuda_sources="$(find cuda \( -name '*.cu' -o -name '*.cpp' \) ! -name absent.cpp ! -name runtime.cu ! -name '*_sm90.cu' | sort)"
  cuda_sources="$cuda_sources test/simt/simt_fiber.cpp test/simt/runtime.cpp"
  test_sources=$(find test/cuda -name '*_test.cpp' | sort)
else
  cuda_sources=$(find cuda \( -name '*.cu' -o -name '*.cpp' \) ! -name absent.cpp | sort)
  test_sources=$(find test/cuda test/gpu -name '*_test.cpp' ! -name shim_test.cpp | sort)
fi
ptx_sources=""
library_sources="" # of what stands in for cuBLAS
if [ $emulated = 1 ]; then
  library_sources=test/ptx/cublas/cublas.cu
  ptx_sources=$(ls test/ptx/*.cpp)
  test_sources="$test_sources $(ls test/ptx/*_test.cu)"
fi
bench_sources=$(find bench/gpu \( -name '*.cu' -o -name '*.cpp' \) | sort)
case $targets in *tests*) ;; *) test_sources="" ;; esac
case $targets in *bench*) ;; *) bench_sources="" ;; esac

# shellcheck disable=SC2086
{
  plan_objects "$cxx" "$host_flags" host $native_sources && engine=$objects
  plan_objects "$nvcc" "-std=c++20 -O3 -Xcompiler=-march=native,-ffp-contract=off $include" ptx $ptx_sources && engine="$engine $objects"
  plan_objects "$cxx" "$host_flags" host test/native/main.cpp && main=$objects
  plan_objects "$nvcc" "$device_flags" cuda $cuda_sources && kernels=$objects
  plan_objects "$nvcc" "$device_flags" test $test_sources && tests=$objects
  plan_objects "$nvcc" "$device_flags" bench $bench_sources && bench=$objects
  plan_objects "$nvcc" "$device_flags -Xcompiler=-fPIC,-fvisibility=hidden" library $library_sources && library=$objects
}
count=$(wc -l < "$todo")
if [ "$count" -gt 0 ]; then
  jobs=${JOBS:-$(nproc)}
  touch "$out/objects/begun"
  echo "compiling $count files for $CHAI_ARCH, $jobs at a time"
  # The largest first, so that none of them is left for last.
  cut -f3 "$todo" | awk '{ print (/\/attention|\/clusterer|\/qkv|\/linear|\/feed|\/multiply|\/output/ ? 0 : 1) "\t" $0 }' | sort -s -n | cut -f2- |
    xargs -d '\n' -P "$jobs" -I{} bash -c '{}'
  while IFS=$'\t' read -r name flags _; do
    # What was edited while it was compiled is compiled again next time.
    if [ -z "$(files_of "$name" | xargs -I{} find {} -newer "$out/objects/begun")" ]; then key_of "$name" "$flags" > "$out/objects/$name.key"; fi
  done < "$todo"
fi
link=("$nvcc")
if [ $emulated = 1 ]; then
  link+=(-gencode "$code" -cudart none -Xcompiler=-pthread)
  # shellcheck disable=SC2086
  "${link[@]}" -shared $library -o "$out/libcublas.so.13"
  # It finds the runtime in the executable, which looks for it in its own folder first.
  # shellcheck disable=SC2016
  link+=(-Xlinker '--export-dynamic-symbol=cuda*,--export-dynamic-symbol=__cuda*,--disable-new-dtags,-rpath=$ORIGIN')
elif [ $host = 0 ]; then # with the C++ library inside: brought to another machine, they need the driver, glibc 2.34 and its libgcc_s
  link+=(-gencode "$code" -cudart static -Xcompiler=-pthread,-static-libstdc++ -Xlinker=--gc-sections)
else
  link+=(-pthread)
fi
rm -f "$out/built" "$out/chai_cuda_tests" "$out/chai_bench" # one of other sources would pass for one of these
for target in $targets; do
  if [ "$target" = chai_bench ]; then own=$bench; else own="$main $tests"; fi
  # shellcheck disable=SC2086
  "${link[@]}" $engine $kernels $own -o "$out/$target" -ldl &
  links="${links:-} $!"
done
for job in ${links:-}; do wait "$job"; done
echo "$tree" > "$out/built"
echo "built $targets in $out for $CHAI_ARCH"

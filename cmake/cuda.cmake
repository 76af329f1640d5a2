# The CUDA half of the engine: library chai_cuda. In: WITH_CUDA (AUTO, ON, OFF), CHAI_CUDA_ARCHITECTURES. Out: the backend and its kernels where
# there is a fitting nvcc, else a stand-in that says why there is no GPU. With CHAI_TESTS also chai_cuda_host: the same kernels for the CPU.

# 80 also as PTX, which serves every later GPU. What releases hold: scripts/build_native.cjs.
set(CHAI_CUDA_ARCHITECTURES "80;90a-real" CACHE STRING "As CMAKE_CUDA_ARCHITECTURES")

file(GLOB cuda_kernels CONFIGURE_DEPENDS cuda/*.cu)
set(cuda_host_sources cuda/block_pool.cpp cuda/device_memory.cpp cuda/nvml.cpp cuda/upload.cpp)

option(CHAI_KERNELS "Compile the kernels: for the device where there is an nvcc, and for the host with CHAI_TESTS" ON)
set(with_cuda OFF)
if(CHAI_KERNELS AND NOT WITH_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES ${CHAI_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
      message(WARNING "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is too old (12.4 is needed): building for the CPU only")
    else()
      set(with_cuda ON)
    endif()
  elseif(WITH_CUDA STREQUAL "ON")
    message(FATAL_ERROR "WITH_CUDA=ON, but there is no nvcc: install the CUDA toolkit or set CUDACXX (or leave the kernels out: -DWITH_CUDA=OFF, for a release CHAI_CUDA_ARCHITECTURES=none)")
  endif()
endif()

if(with_cuda)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.26 does not know that nvcc speaks C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  # nvcc's -O is about the host half of a file alone: -O3 makes the code that starts kernels twice as large.
  string(REPLACE "-O3" "-O2" CMAKE_CUDA_FLAGS_RELEASE "${CMAKE_CUDA_FLAGS_RELEASE}")
  add_library(chai_cuda OBJECT ${cuda_kernels} ${cuda_host_sources})
  set_target_properties(chai_cuda PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_VISIBILITY_PRESET hidden
    CUDA_RUNTIME_LIBRARY Static)
  target_compile_options(chai_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall -Xcompiler=-fno-strict-aliasing -Xcompiler=-ffunction-sections --compress-mode=size>
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)
else()
  add_library(chai_cuda OBJECT cuda/absent.cpp)
endif()
target_include_directories(chai_cuda PUBLIC native)

# The kernels once more as C++, for tests on machines without a GPU (test/simt): each .cu is included by a .cpp of its own.
if(CHAI_TESTS AND NOT CHAI_KERNELS)
  add_library(chai_cuda_host OBJECT cuda/absent.cpp)
  target_include_directories(chai_cuda_host PUBLIC native)
elseif(CHAI_TESTS)
  set(host_sources ${cuda_host_sources} test/simt/simt_fiber.cpp test/simt/runtime.cpp)
  foreach(kernel ${cuda_kernels})
    get_filename_component(name ${kernel} NAME_WE)
    if(name STREQUAL "runtime" OR name MATCHES "_sm90$")
      continue()
    endif()
    file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/cuda_host/${name}.cpp CONTENT "#include \"${kernel}\"\n")
    list(APPEND host_sources ${CMAKE_CURRENT_BINARY_DIR}/cuda_host/${name}.cpp)
  endforeach()
  add_library(chai_cuda_host OBJECT ${host_sources})
  target_include_directories(chai_cuda_host PUBLIC cuda native test/simt)
  target_link_libraries(chai_cuda_host PUBLIC Threads::Threads)
  target_compile_options(chai_cuda_host PRIVATE -Wall -Wextra -Wno-unknown-pragmas -fno-strict-aliasing -ffp-contract=off)
  if(SANITIZE)
    target_compile_options(chai_cuda_host PRIVATE -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1)
  else()
    target_compile_options(chai_cuda_host PRIVATE -O2)
  endif()
endif()

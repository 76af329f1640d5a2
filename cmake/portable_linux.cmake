# For released Linux binaries: an addon that needs glibc 2.28 and no libstdc++ of the user's machine, and exports only what Node asks for.
# Included by CMakeLists.txt with -DPORTABLE=ON. scripts/check_binary.cjs proves the result and names a function that is missing here.

# Functions that a new glibc has under a new version, mostly because they moved to another of its files in 2.34, and that are the same as ever under
# the first one. The linker sends calls to __wrap_FUNCTION, which is a jump to that first version. NAME, or NAME@ where the first version is not the base.
set(moved
  dladdr dlclose dlerror dlmopen@GLIBC_2.3.4 dlopen dlsym dlvsym
  exp log
  __pthread_key_create pthread_condattr_setpshared pthread_create pthread_detach pthread_getspecific pthread_join pthread_key_create
  pthread_key_delete pthread_kill pthread_mutex_trylock pthread_mutexattr_destroy pthread_mutexattr_init pthread_mutexattr_setpshared
  pthread_mutexattr_settype pthread_once pthread_rwlock_destroy pthread_rwlock_init pthread_rwlock_rdlock pthread_rwlock_timedrdlock
  pthread_rwlock_timedwrlock pthread_rwlock_tryrdlock pthread_rwlock_trywrlock pthread_rwlock_unlock pthread_rwlock_wrlock
  pthread_rwlockattr_destroy pthread_rwlockattr_init pthread_rwlockattr_setpshared pthread_setspecific pthread_sigmask pthread_spin_destroy
  pthread_spin_init pthread_spin_lock pthread_spin_trylock pthread_spin_unlock
  sem_destroy sem_init sem_post sem_timedwait sem_trywait sem_wait shm_open shm_unlink)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set(base GLIBC_2.17)
  set(jump "b ")
  set(suffix "")
else()
  set(base GLIBC_2.2.5)
  set(jump "jmp ")
  set(suffix "@PLT")
endif()

set(source "// Made by cmake/portable_linux.cmake: jumps to the first version of functions of the C library.\n")
foreach(entry ${moved})
  string(REGEX REPLACE "@.*" "" name ${entry})
  string(REGEX MATCH "GLIBC_.*" version ${entry})
  if(NOT version OR base STREQUAL "GLIBC_2.17")  # 64-bit Arm began with that one
    set(version ${base})
  endif()
  string(APPEND source "asm(R\"(.symver first_${name}, ${name}@${version}\n"
    ".section .text.__wrap_${name}, \"ax\", %progbits\n.globl __wrap_${name}\n.hidden __wrap_${name}\n.type __wrap_${name}, %function\n"
    "__wrap_${name}: ${jump}first_${name}${suffix}\n.text)\");\n")
  target_link_options(chai_llm PRIVATE -Wl,--wrap=${name})
endforeach()
file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/first_versions.cpp CONTENT "${source}")

# And those that a new glibc has changed or added: written out.
foreach(name fstat fstat64 pthread_cond_clockwait)
  target_link_options(chai_llm PRIVATE -Wl,--wrap=${name})
endforeach()
target_sources(chai_llm PRIVATE ${CMAKE_BINARY_DIR}/first_versions.cpp native/platform/glibc_2_28.cpp)

file(WRITE ${CMAKE_BINARY_DIR}/exports.map "{ global: napi_register_module_v1; node_api_module_get_api_version_v1; local: *; };\n")
target_link_options(chai_llm PRIVATE -static-libstdc++ -Wl,--gc-sections -Wl,--version-script=${CMAKE_BINARY_DIR}/exports.map)
target_compile_options(chai_engine PRIVATE -ffunction-sections -fdata-sections)

# Small code where no time is spent, a quarter of a megabyte less: all but native/cpu and these three, which compute.
file(GLOB steering CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} native/*.cpp native/platform/*.cpp native/addon/*.cpp)
list(REMOVE_ITEM steering native/clustering.cpp native/head_gram.cpp native/sampler.cpp)
set_source_files_properties(${steering} PROPERTIES COMPILE_OPTIONS -Os)

# Before 2.34 these were files of their own; Node brings the first two along, but not librt, which the CUDA runtime asks.
foreach(library libpthread.so.0 libdl.so.2 librt.so.1)
  find_file(${library}_file ${library} PATHS /lib/${CMAKE_LIBRARY_ARCHITECTURE} /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE} /lib64 /usr/${CMAKE_LIBRARY_ARCHITECTURE}/lib
    /lib REQUIRED)
  target_link_libraries(chai_llm PRIVATE -Wl,--no-as-needed ${${library}_file} -Wl,--as-needed)
endforeach()

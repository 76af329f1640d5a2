# For released Linux binaries: an addon that needs glibc 2.28 and no libstdc++ of the user's machine, and exports only what Node asks for.
# Included by CMakeLists.txt with -DPORTABLE=ON. scripts/check_binary.cjs proves the result and names a function that is missing here.
target_sources(chai_llm PRIVATE native/platform/glibc_2_28.cpp)
set_source_files_properties(native/platform/glibc_2_28.cpp PROPERTIES COMPILE_OPTIONS "-fno-builtin")
foreach(function dladdr dlclose dlerror dlopen dlsym exp fstat fstat64 log pthread_cond_clockwait pthread_create pthread_detach pthread_join
    __pthread_key_create pthread_once pthread_sigmask)
  target_link_options(chai_llm PRIVATE -Wl,--wrap=${function})
endforeach()
file(WRITE ${CMAKE_BINARY_DIR}/exports.map "{ global: napi_register_module_v1; node_api_module_get_api_version_v1; local: *; };\n")
target_link_options(chai_llm PRIVATE -static-libstdc++ -Wl,--gc-sections -Wl,--version-script=${CMAKE_BINARY_DIR}/exports.map)
target_compile_options(chai_engine PRIVATE -ffunction-sections -fdata-sections)

// Fat binaries and kernels of the program; see registration.h. Only PTX is taken, and only uncompressed.
#include "registration.h"

#include <cstring>
#include <map>
#include <vector>

#include "calls.h"
#include "settings.h"

namespace ptx {

/// A file's device code.
struct FatBinary {
  const unsigned char* data = nullptr;
  std::shared_ptr<Module> module;
};

namespace {

struct Wrapper {
  uint32_t magic, version;
  const unsigned char* data;
  void* more;
};
constexpr uint32_t wrapper_magic = 0x466243b1, data_magic = 0xba55ed50;

struct DataHeader {
  uint32_t magic;
  uint16_t version, bytes;
  uint64_t size;  // of what follows
};
struct EntryHeader {
  uint16_t kind, version;
  uint32_t bytes;
  uint64_t size;  // of what follows
};
constexpr uint16_t kind_ptx = 1;

struct Registry {
  std::vector<std::unique_ptr<FatBinary>> binaries;
  std::vector<std::unique_ptr<Function>> functions;
  std::map<const void*, Function*> by_address;
};
Registry& registry() {
  static Registry* all = new Registry;  // used until the process ends
  return *all;
}

template <class T>
T read(const unsigned char* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// "sm_90a" of a PTX file.
std::string target_of(const std::string& text) {
  const size_t at = text.find(".target");
  if (text.find(".version") == std::string::npos || at == std::string::npos)
    throw Unsupported("the PTX of the program is compressed; compile with nvcc --no-compress");
  const size_t from = text.find_first_not_of(" \t", at + 7);
  return text.substr(from, text.find_first_of(", \t\r\n", from) - from);
}

/// How well code for a target suits the device; 0: not at all.
int merit_of(const std::string& target) {
  const int number = std::atoi(target.c_str() + 3) * 10, device = settings().capability * 10;
  switch (target.back()) {
    case 'a': return number == device ? number + 2 : 0;
    case 'f': return number <= device && number / 100 == device / 100 ? number + 1 : 0;
    default: return number <= device ? number : 0;
  }
}

/// The PTX that suits the device best; throws Refusal for none.
std::string text_for_device(const unsigned char* data) {
  const auto header = read<DataHeader>(data);
  if (header.magic != data_magic) throw Unsupported("a fat binary of the program has no known form");
  std::string best, all;
  int merit = 0;
  const unsigned char *at = data + header.bytes, *end = at + header.size;
  while (at + sizeof(EntryHeader) <= end) {
    const auto entry = read<EntryHeader>(at);
    if (entry.kind == kind_ptx) {
      const char* from = reinterpret_cast<const char*>(at + entry.bytes);
      std::string text(from, strnlen(from, entry.size));
      const std::string target = target_of(text);
      all += " " + target;
      if (const int m = merit_of(target); m > merit) merit = m, best = std::move(text);
    }
    at += entry.bytes + entry.size;
  }
  if (merit == 0)
    throw Refusal{cudaErrorNoKernelImageForDevice,
                  "PTX for" + (all.empty() ? " nothing" : all) + " does not run on " + std::to_string(settings().capability)};
  return best;
}

}  // namespace

const Kernel& Function::kernel() {
  if (!binary->module) binary->module = parse(text_for_device(binary->data));
  return binary->module->kernel(name);
}

Function& function_of(const void* stub) {
  const auto found = registry().by_address.find(stub);
  if (found == registry().by_address.end()) throw Refusal{cudaErrorInvalidDeviceFunction, "no kernel has this address"};
  return *found->second;
}

}  // namespace ptx

using namespace ptx;

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  const std::lock_guard hold(one_call());
  const auto read_wrapper = read<Wrapper>(static_cast<const unsigned char*>(wrapper));
  auto binary = std::make_unique<FatBinary>();
  static const unsigned char nothing[sizeof(DataHeader)] = {};
  binary->data = read_wrapper.magic == wrapper_magic ? read_wrapper.data : nothing;
  registry().binaries.push_back(std::move(binary));
  return reinterpret_cast<void**>(registry().binaries.back().get());
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}  // the process ends: what runs after it may still launch
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void** binary, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  const std::lock_guard hold(one_call());
  auto function = std::make_unique<Function>();
  function->name = name;
  function->binary = reinterpret_cast<FatBinary*>(binary);
  registry().by_address[stub] = function.get();
  registry().by_address[function.get()] = function.get();
  registry().functions.push_back(std::move(function));
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}  // host code names no device variable

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  return host_call("__cudaGetKernel", [&] { *kernel = reinterpret_cast<cudaKernel_t>(&function_of(stub)); });
}

}  // extern "C"

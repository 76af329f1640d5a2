// What ends a kernel on the emulated device: the error of the CUDA runtime that a real one would give, and where it happened.
#pragma once
#include <stdexcept>
#include <string>

namespace ptx {

enum class FaultKind { illegal_address, misaligned_address, illegal_instruction, trap, deadlock, hazard };

struct Fault : std::runtime_error {
  FaultKind kind;
  Fault(FaultKind k, const std::string& what) : std::runtime_error(what), kind(k) {}
};
/// PTX that this emulator does not know, or that is wrong: an error of the build, not of a launch.
struct Unsupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace ptx

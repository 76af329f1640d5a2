// A kernel ready to run. In: PTX text. Out: a list of operations whose operands are places in a warp's register file.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ptx {

struct Warp;
struct Op;
/// Executes an operation for the lanes of `mask` (never empty).
using Run = void (*)(Warp& warp, const Op& op, uint32_t mask);

/// How the loop of a warp treats an operation.
enum class Kind : uint8_t {
  plain,       // run(), then the next one
  branch,      // to `target`
  exit,        // of the lanes in the mask
  collective,  // run() once all lanes have come that it names: mask_register's lanes, or with `aligned` every lane that has not exited
};

/// A place in the register file: byte offset of lane 0's word. Lanes follow each other: 4 bytes each, 8 for 64-bit registers. A predicate
/// is one 32-bit word, a bit a lane. Constants are registers too, filled once.
using Place = uint32_t;
constexpr Place nowhere = 0xffffffffu;  // operand `_`, or no guard

struct Op {
  Run run = nullptr;
  Kind kind = Kind::plain;
  bool guard_negated = false;
  bool aligned = false;      // collective of all lanes
  bool atomic = false;       // an access that races with none of its kind
  bool constant = false;     // a load that may miss what the grid writes
  bool yields = false;       // the warp may have to wait after it: others run
  uint8_t type = 0;          // free use of the operation
  uint8_t width = 0;         // free use: bytes, elements
  uint8_t wide_address = 0;  // the address's register (a) has 64 bits
  Place guard = nowhere;
  Place d = nowhere, a = nowhere, b = nowhere, c = nowhere;
  int64_t offset = 0;                 // of an address; free use else
  uint32_t target = 0;                // of a branch; of a collective that is not aligned: place of its member mask
  uint32_t more = 0, more_count = 0;  // further operands: Kernel::places[more ...]
  uint32_t line = 0;                  // in the PTX text
};

struct Parameter {
  uint32_t offset = 0, bytes = 0;
};

struct Kernel {
  std::string name;
  std::string target;  // sm_90a
  std::vector<Op> ops;
  std::vector<Place> places;
  std::vector<Parameter> parameters;
  uint32_t parameter_bytes = 0;
  uint32_t max_threads = 1024;
  uint32_t static_shared = 0, dynamic_alignment = 16, dynamic_symbol = nowhere;
  uint32_t local_bytes = 0;      // of one thread
  uint32_t register_bytes = 0;   // of one warp
  std::vector<uint8_t> initial;  // first bytes of the register file: constants
  // special registers that the kernel uses
  Place tid[3] = {nowhere, nowhere, nowhere}, ntid[3] = {nowhere, nowhere, nowhere}, ctaid[3] = {nowhere, nowhere, nowhere};
  Place nctaid[3] = {nowhere, nowhere, nowhere}, laneid = nowhere;
  Place parameter_base = nowhere, local_base = nowhere;  // 64-bit addresses
  bool waits_for_previous = false;                       // has a griddepcontrol.wait
  /// Where the text of an operation stands; for messages.
  std::string text_of(uint32_t line) const;
  std::shared_ptr<const std::string> text;
};

struct Module {
  struct Body;
  std::shared_ptr<const std::string> text;
  std::string target;
  std::map<std::string, void*> globals;  // device memory of .global variables
  /// Decoded at its first use. Throws Unsupported.
  const Kernel& kernel(const std::string& name);

 private:
  friend std::shared_ptr<Module> parse(std::string text);
  std::map<std::string, std::shared_ptr<Body>> bodies_;
  std::map<std::string, std::unique_ptr<Kernel>> kernels_;
};

/// Splits a PTX file into its kernels; .global variables get their memory and content. Throws Unsupported.
std::shared_ptr<Module> parse(std::string text);

}  // namespace ptx

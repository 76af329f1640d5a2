// What parse() leaves of a PTX file for the decoder. In: the text. Out: its functions as ranges of it, its variables with their memory.
#pragma once
#include <string>
#include <vector>

#include "program.h"

namespace ptx {

struct Variable {
  std::string name;
  uint32_t alignment = 1, bytes = 0;  // 0 bytes: as many as the launch gives
};

struct Module::Body {
  size_t from = 0, to = 0;  // of the text, within the braces
  uint32_t line = 0;
  bool entry = false;
  uint32_t max_threads = 1024;
  std::vector<Variable> parameters, results;
  std::vector<Variable> shared;  // the module's, for any kernel
};

/// Reads `.align 8 .b8 name[80]` or `.u64 name`, from behind the state space. Throws Unsupported.
Variable read_variable(class Lexer& lexer);
/// Bytes of an element of type `.u64`, `.b8`, `.f32`, `.pred` (4); throws Unsupported.
uint32_t type_bytes(std::string_view type);

std::unique_ptr<Kernel> decode_kernel(Module& module, const std::string& name,
                                      const std::map<std::string, std::shared_ptr<Module::Body>>& bodies);

}  // namespace ptx

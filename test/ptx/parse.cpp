// PTX files. In: text. Out: a Module: where each function's body stands, .global variables in device memory.
#include <algorithm>
#include <cstring>

#include "lexer.h"
#include "memory.h"
#include "module.h"

namespace ptx {

uint32_t type_bytes(std::string_view type) {
  if (type == ".pred" || type == ".b32" || type == ".u32" || type == ".s32" || type == ".f32") return 4;
  if (type == ".b8" || type == ".u8" || type == ".s8") return 1;
  if (type == ".b16" || type == ".u16" || type == ".s16" || type == ".f16" || type == ".bf16") return 2;
  if (type == ".b64" || type == ".u64" || type == ".s64" || type == ".f64") return 8;
  throw Unsupported("PTX type " + std::string(type));
}

Variable read_variable(Lexer& lexer) {
  Variable variable;
  uint32_t element = 0;
  for (;;) {
    if (lexer.accept(".align")) {
      variable.alignment = uint32_t(std::stoul(std::string(lexer.take().text)));
    } else if (lexer.accept(".ptr") || lexer.accept(".global") || lexer.accept(".shared")) {
      continue;
    } else if (!lexer.now().text.empty() && lexer.now().text[0] == '.') {
      element = type_bytes(lexer.take().text);
    } else {
      break;
    }
  }
  variable.alignment = std::max(variable.alignment, element);
  variable.name = std::string(lexer.take().text);
  variable.bytes = element;
  while (lexer.accept("[")) {
    if (lexer.now().is("]"))
      variable.bytes = 0;
    else
      variable.bytes *= uint32_t(std::stoul(std::string(lexer.take().text)));
    lexer.expect("]");
  }
  return variable;
}

namespace {

void skip_statement(Lexer& lexer) {
  while (!lexer.now().text.empty() && !lexer.accept(";")) {
    if (lexer.accept("{"))
      lexer.skip_braces();
    else
      lexer.take();
  }
}

/// A .global or .const variable behind its state space: memory with its initial bytes (numbers of .b8 arrays and of scalars) or zeros.
void* make_global(Lexer& lexer, std::string& name) {
  uint32_t element = 0;
  {
    // The element's type stands right before the name: look at it through a copy.
    Lexer ahead = lexer;
    while (!ahead.now().text.empty() && ahead.now().text[0] == '.') {
      const Token token = ahead.take();
      if (token.is(".align"))
        ahead.take();
      else
        element = type_bytes(token.text);
    }
  }
  const Variable variable = read_variable(lexer);
  name = variable.name;
  auto* memory = static_cast<uint8_t*>(DeviceMemory::instance().allocate(variable.bytes));
  if (!memory) throw Unsupported("no memory for PTX variable " + name);
  std::memset(memory, 0, variable.bytes);
  if (lexer.accept("=")) {
    const bool braces = lexer.accept("{");
    for (uint32_t at = 0; at + element <= variable.bytes && !lexer.now().is("}") && !lexer.now().is(";"); at += element) {
      const bool negative = lexer.accept("-");
      const std::string text(lexer.take().text);
      uint64_t value = 0;
      if (text.size() > 2 && text[0] == '0' && (text[1] == 'f' || text[1] == 'F' || text[1] == 'd' || text[1] == 'D'))
        value = std::stoull(text.substr(2), nullptr, 16);
      else if (!text.empty() && text[0] >= '0' && text[0] <= '9')
        value = std::stoull(text, nullptr, 0);
      else
        throw Unsupported("initial value " + text + " of PTX variable " + name);
      if (negative) value = -value;
      std::memcpy(memory + at, &value, element);
      lexer.accept(",");
    }
    if (braces) lexer.expect("}");
  }
  lexer.expect(";");
  return memory;
}

std::vector<Variable> read_parameters(Lexer& lexer) {
  std::vector<Variable> parameters;
  if (!lexer.accept("(")) return parameters;
  while (!lexer.accept(")")) {
    lexer.expect(".param");
    parameters.push_back(read_variable(lexer));
    lexer.accept(",");
  }
  return parameters;
}

}  // namespace

std::shared_ptr<Module> parse(std::string text) {
  auto module = std::make_shared<Module>();
  module->text = std::make_shared<const std::string>(std::move(text));
  Lexer lexer(*module->text, 0, module->text->size(), 1);
  std::vector<Variable> shared;
  while (!lexer.now().text.empty()) {
    const Token token = lexer.take();
    if (token.is(".version") || token.is(".address_size")) {
      lexer.take();
    } else if (token.is(".target")) {
      module->target = std::string(lexer.take().text);
      while (lexer.accept(",")) lexer.take();
    } else if (token.is(".visible") || token.is(".extern") || token.is(".weak") || token.is(";") || token.is(".common")) {
      continue;
    } else if (token.is(".shared")) {
      shared.push_back(read_variable(lexer));
      lexer.expect(";");
    } else if (token.is(".global") || token.is(".const")) {
      std::string name;
      void* memory = make_global(lexer, name);
      module->globals[name] = memory;
    } else if (token.is(".entry") || token.is(".func")) {
      auto body = std::make_shared<Module::Body>();
      body->entry = token.is(".entry");
      if (!body->entry) body->results = read_parameters(lexer);
      const std::string name(lexer.take().text);
      body->parameters = read_parameters(lexer);
      while (!lexer.now().is("{") && !lexer.now().is(";") && !lexer.now().text.empty()) {
        if (lexer.accept(".maxntid")) {
          body->max_threads = 1;
          do body->max_threads *= uint32_t(std::stoul(std::string(lexer.take().text)));
          while (lexer.accept(","));
        } else {
          lexer.take();
        }
      }
      if (lexer.accept(";")) continue;
      body->line = lexer.now().line;
      lexer.expect("{");
      body->from = size_t(lexer.start());
      body->line = lexer.now().line;
      body->to = lexer.skip_braces();
      module->bodies_[name] = body;
    } else if (token.is(".section")) {
      while (!lexer.accept("{")) lexer.take();
      lexer.skip_braces();
    } else {
      skip_statement(lexer);
    }
  }
  for (auto& [name, body] : module->bodies_) body->shared = shared;
  return module;
}

const Kernel& Module::kernel(const std::string& name) {
  auto& kernel = kernels_[name];
  if (!kernel) kernel = decode_kernel(*this, name, bodies_);
  return *kernel;
}

std::string Kernel::text_of(uint32_t line) const {
  const auto line_from = [&](size_t from) {
    const size_t start = std::min(text->find_first_not_of(" \t{", from), text->size()), end = text->find('\n', from);
    return start < end ? text->substr(start, end - start) : std::string();
  };
  size_t from = 0;
  std::string place;  // `.loc FILE LINE COLUMN`
  for (uint32_t at = 1; at < line; ++at) {
    const size_t next = text->find('\n', from);
    if (next == std::string::npos) return "";
    const size_t start = text->find_first_not_of(" \t", from);
    if (text->compare(start, 5, ".loc\t") == 0) place = line_from(from).substr(5);
    from = next + 1;
  }
  if (place.empty()) return line_from(from);
  const size_t space = place.find(' ');
  const std::string row = place.substr(space + 1, place.find(' ', space + 1) - space - 1);
  const size_t declared = text->find(".file\t" + place.substr(0, space) + " \"");
  std::string path = declared == std::string::npos ? "" : line_from(declared);
  path = path.substr(std::min(path.size(), path.rfind('/') + 1));
  path.erase(std::remove(path.begin(), path.end(), '"'), path.end());
  return line_from(from) + " (" + path + ":" + row + ")";
}

}  // namespace ptx

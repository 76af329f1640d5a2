// Kernels. In: a function's text. Out: its operations, with every register, constant and variable at its place. Called functions are put in
// line.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "decoder.h"
#include "lexer.h"
#include "module.h"

namespace ptx {

int register_bytes(const std::string& type) {
  if (type == "pred") return 1;
  return !type.empty() && type.size() >= 3 && type.substr(type.size() - 2) == "64" ? 8 : 4;
}

namespace {

uint32_t round_up(uint32_t value, uint32_t to) { return (value + to - 1) / to * to; }

class KernelDecoder final : public Decoder {
 public:
  KernelDecoder(Module& module, const std::map<std::string, std::shared_ptr<Module::Body>>& bodies) : module_(module), bodies_(bodies) {}

  std::unique_ptr<Kernel> decode(const std::string& name) {
    const auto found = bodies_.find(name);
    if (found == bodies_.end() || !found->second->entry) throw Unsupported("PTX has no kernel " + name);
    const Module::Body& body = *found->second;
    kernel_ = std::make_unique<Kernel>();
    kernel_->name = name;
    kernel_->text = module_.text;
    kernel_->target = module_.target;
    kernel_->max_threads = body.max_threads;
    kernel_->parameter_base = take(8);
    kernel_->local_base = take(8);
    zero_ = constant(0, 4);
    scopes_.emplace_back();
    for (const Variable& parameter : body.parameters) {
      kernel_->parameter_bytes = round_up(kernel_->parameter_bytes, parameter.alignment);
      kernel_->parameters.push_back({kernel_->parameter_bytes, parameter.bytes});
      scopes_[0].symbols[parameter.name] = {Symbol::parameter, kernel_->parameter_bytes};
      kernel_->parameter_bytes += parameter.bytes;
    }
    for (const Variable& variable : body.shared) {
      if (variable.bytes == 0)
        dynamic_.push_back(variable);
      else
        module_shared_.push_back(variable);
    }
    kernel_->dynamic_alignment = 1;
    // Static shared memory has its layout first: the body's declarations are read before its operations.
    declare_shared(body);
    decode_body(body);
    kernel_->register_bytes = next_;
    kernel_->initial.assign(next_, 0xcb);
    for (const Constant& c : constants_) {
      for (int lane = 0; lane < (c.bytes == 1 ? 1 : 32); ++lane)
        std::memcpy(&kernel_->initial[c.place + size_t(lane) * size_t(c.bytes)], &c.bits, c.bytes == 1 ? 4 : size_t(c.bytes));
    }
    return std::move(kernel_);
  }

  Place place(const Operand& operand, int bytes) override {
    switch (operand.what) {
      case Operand::reg:
        if (operand.negated) refuse("a negated operand");
        return register_of_size(operand.name, bytes);
      case Operand::number: return constant(operand.bits, bytes);
      case Operand::symbol: return symbol_place(operand.name, 0, bytes);
      case Operand::none: return nowhere;
      case Operand::address:
        if (operand.base_is_symbol) return symbol_place(operand.name, operand.offset, bytes);
        break;
      default: break;
    }
    refuse("an operand of this kind");
  }

  int bytes_of(const Operand& operand, int otherwise) override {
    if (operand.what != Operand::reg) return otherwise;
    uint8_t wide = 0;
    register_place(operand.name, &wide);
    return wide ? 8 : otherwise == 1 ? 1 : 4;
  }

  void address(Op& op, const Operand& operand) override {
    if (operand.what != Operand::address) refuse("an address expected");
    op.offset = operand.offset;
    op.wide_address = 1;
    if (operand.name.empty()) {
      op.a = constant(0, 8);
    } else if (operand.base_is_symbol) {
      const Symbol& symbol = find_symbol(operand.name);
      switch (symbol.what) {
        case Symbol::shared: op.a = zero_, op.wide_address = 0, op.offset += int64_t(symbol.offset); break;
        case Symbol::global: op.a = constant(symbol.offset, 8); break;
        case Symbol::local: op.a = kernel_->local_base, op.offset += int64_t(symbol.offset); break;
        case Symbol::parameter: op.a = kernel_->parameter_base, op.offset += int64_t(symbol.offset); break;
      }
    } else {
      op.a = register_place(operand.name, &op.wide_address);
    }
  }

  uint32_t more(const std::vector<Place>& places) override {
    const auto first = uint32_t(kernel_->places.size());
    kernel_->places.insert(kernel_->places.end(), places.begin(), places.end());
    return first;
  }

  [[noreturn]] void refuse(const std::string& why) override {
    throw Unsupported("PTX line " + std::to_string(line_) + ": " + why + ": " + (kernel_ ? kernel_->text_of(line_) : ""));
  }

 private:
  struct Symbol {
    enum What { shared, global, local, parameter } what;
    uint64_t offset;  // of a global: its address
  };
  struct Scope {
    std::map<std::string, int> families, singles;  // bytes
    std::unordered_map<std::string, std::pair<Place, int>> places;
    std::map<std::string, Symbol> symbols;
  };
  struct Constant {
    Place place;
    int bytes;
    uint64_t bits;
  };

  Place take(int bytes) {
    const Place place = next_;
    next_ += bytes == 1 ? 32 : uint32_t(bytes) * 32;
    return place;
  }

  Place constant(uint64_t bits, int bytes) {
    if (bytes == 1) bits = bits ? 0xffffffffu : 0;
    if (bytes == 4) bits &= 0xffffffffu;
    auto& place = constant_places_[{bits, bytes}];
    if (place == 0) {
      place = take(bytes);
      constants_.push_back({place, bytes, bits});
    }
    return place;
  }

  Place special(const std::string& name) {
    const auto of = [&](Place& place) { return place == nowhere ? place = take(4) : place; };
    const int axis = name.back() - 'x';
    const std::string stem = name.substr(0, name.find('.'));
    if (axis >= 0 && axis < 3) {
      if (stem == "%tid") return of(kernel_->tid[axis]);
      if (stem == "%ntid") return of(kernel_->ntid[axis]);
      if (stem == "%ctaid") return of(kernel_->ctaid[axis]);
      if (stem == "%nctaid") return of(kernel_->nctaid[axis]);
    }
    if (name == "%laneid") return of(kernel_->laneid);
    return nowhere;
  }

  Place register_place(const std::string& name, uint8_t* wide = nullptr) {
    for (size_t s = scopes_.size(); s-- > first_scope_;) {
      Scope& scope = scopes_[s];
      if (const auto known = scope.places.find(name); known != scope.places.end()) {
        if (wide) *wide = known->second.second == 8;
        return known->second.first;
      }
      int bytes = 0;
      if (const auto single = scope.singles.find(name); single != scope.singles.end()) {
        bytes = single->second;
      } else {
        const std::string stem = name.substr(0, name.find_last_not_of("0123456789") + 1);
        if (const auto family = scope.families.find(stem); family != scope.families.end() && stem != name) bytes = family->second;
      }
      if (bytes) {
        const Place place = take(bytes);
        scope.places[name] = {place, bytes};
        if (wide) *wide = bytes == 8;
        return place;
      }
    }
    if (wide) *wide = 0;
    const Place place = special(name);
    if (place == nowhere) refuse("register " + name + " is not known");
    return place;
  }

  /// An instruction that reads a register as what it is not would read other lanes.
  Place register_of_size(const std::string& name, int bytes) {
    uint8_t wide = 0;
    const Place place = register_place(name, &wide);
    if (bytes != 1 && (bytes == 8) != (wide != 0)) refuse("register " + name + " of another size");
    return place;
  }

  const Symbol& find_symbol(const std::string& name) {
    for (size_t s = scopes_.size(); s-- > 0;)
      if (const auto found = scopes_[s].symbols.find(name); found != scopes_[s].symbols.end()) return found->second;
    Scope& outer = scopes_[0];
    if (const auto found = module_.globals.find(name); found != module_.globals.end())
      return outer.symbols[name] = {Symbol::global, reinterpret_cast<uint64_t>(found->second)};
    for (const Variable& variable : dynamic_)
      if (variable.name == name) {
        kernel_->dynamic_alignment = std::max(kernel_->dynamic_alignment, variable.alignment);
        return outer.symbols[name] = {Symbol::shared, shared_offset(round_up(kernel_->static_shared, variable.alignment))};
      }
    refuse("symbol " + name + " is not known");
  }
  /// The shared window's first 1024 bytes belong to the system.
  static uint64_t shared_offset(uint32_t bytes) { return 1024 + bytes; }

  Place symbol_place(const std::string& name, int64_t offset, int bytes) {
    const Symbol& symbol = find_symbol(name);
    if (symbol.what == Symbol::shared || symbol.what == Symbol::global) return constant(symbol.offset + uint64_t(offset), bytes);
    const uint64_t total = symbol.offset + uint64_t(offset);
    const Place base = symbol.what == Symbol::local ? kernel_->local_base : kernel_->parameter_base;
    if (total == 0) return base;
    Statement add;
    add.code = {"add", "s64"};
    Op op;
    op.line = line_;
    add.operands.resize(3);
    for (int i = 1; i < 3; ++i) add.operands[size_t(i)].what = Operand::number;
    add.operands[2].bits = total;
    const Place sum = take(8);
    scopes_.back().places["%address"] = {sum, 8};
    add.operands[0].what = Operand::reg;
    add.operands[0].name = "%address";
    decode_arithmetic(*this, add, op);
    op.a = base;
    kernel_->ops.push_back(op);
    return sum;
  }

  void declare_shared(const Module::Body& body) {
    Lexer lexer(*module_.text, body.from, body.to, body.line);
    std::vector<Variable> variables = module_shared_;
    while (!lexer.now().text.empty())
      if (lexer.accept(".shared"))
        variables.push_back(read_variable(lexer));
      else
        lexer.take();
    uint32_t bytes = 0;
    for (const Variable& variable : variables) {
      bytes = round_up(bytes, variable.alignment);
      scopes_[0].symbols[variable.name] = {Symbol::shared, shared_offset(bytes)};
      bytes += variable.bytes;
    }
    kernel_->static_shared = bytes;
  }

  void take_local(const Variable& variable) {
    kernel_->local_bytes = round_up(kernel_->local_bytes, std::max(16u, variable.alignment));
    scopes_.back().symbols[variable.name] = {Symbol::local, kernel_->local_bytes};
    kernel_->local_bytes += variable.bytes;
  }

  void decode_body(const Module::Body& body) {
    Lexer lexer(*module_.text, body.from, body.to, body.line);
    std::unordered_map<std::string, uint32_t> labels;
    std::vector<std::pair<uint32_t, std::string>> jumps;  // operation, label
    size_t depth = 0;
    while (!lexer.now().text.empty()) {
      line_ = lexer.now().line;
      if (lexer.accept("{")) {
        scopes_.emplace_back();
        ++depth;
        continue;
      }
      if (lexer.now().is("}")) {
        if (depth == 0) refuse("a brace too many");
        lexer.take();
        scopes_.pop_back();
        --depth;
        continue;
      }
      if (lexer.accept(";")) continue;
      if (lexer.now().text[0] == '.') {
        directive(lexer);
        continue;
      }
      Statement statement;
      statement.line = line_;
      if (lexer.accept("@")) {
        statement.guard_negated = lexer.accept("!");
        statement.guard = std::string(lexer.take().text);
      }
      const std::string word(lexer.take().text);
      if (statement.guard.empty() && lexer.accept(":")) {
        if (!labels.emplace(word, uint32_t(kernel_->ops.size())).second) refuse("label " + word + " twice");
        continue;
      }
      for (size_t from = 0;;) {
        size_t dot = from;
        // `::` belongs to a part: shared::cta
        while (dot < word.size() && word[dot] != '.') ++dot;
        statement.code.push_back(word.substr(from, dot - from));
        if (dot >= word.size()) break;
        from = dot + 1;
      }
      if (statement.code[0] == "call") {
        call(lexer);
        continue;
      }
      while (!lexer.accept(";")) {
        statement.operands.push_back(read_operand(lexer));
        lexer.accept(",");
      }
      emit(statement, jumps);
    }
    labels[end_of_body] = uint32_t(kernel_->ops.size());
    for (const auto& [op, label] : jumps) {
      const auto found = labels.find(label);
      if (found == labels.end()) refuse("label " + label + " is nowhere");
      kernel_->ops[op].target = found->second;
    }
    Op end;  // a label may stand behind the last operation
    end.kind = body.entry ? Kind::exit : Kind::plain;
    end.run = [](Warp&, const Op&, uint32_t) {};
    end.line = line_;
    kernel_->ops.push_back(end);
  }

  void emit(const Statement& statement, std::vector<std::pair<uint32_t, std::string>>& jumps) {
    Op op;
    op.line = line_;
    if (!statement.guard.empty()) {
      Operand guard;
      guard.what = Operand::reg;
      guard.name = statement.guard;
      op.guard = place(guard, 1);
      op.guard_negated = statement.guard_negated;
    }
    const std::string& code = statement.code[0];
    if (code == "bra") {
      op.kind = Kind::branch;
      jumps.emplace_back(uint32_t(kernel_->ops.size()), statement.operands.at(0).name);
    } else if (code == "exit" || (code == "ret" && inline_depth_ == 0)) {
      op.kind = Kind::exit;
    } else if (code == "ret") {
      op.kind = Kind::branch;
      jumps.emplace_back(uint32_t(kernel_->ops.size()), end_of_body);
    } else {
      if (code == "griddepcontrol" && statement.has("wait")) kernel_->waits_for_previous = true;
      Op decoded = op;
      try {
        if (!decode_moves(*this, statement, decoded) && !decode_arithmetic(*this, statement, decoded) &&
            !decode_memory(*this, statement, decoded) && !decode_collectives(*this, statement, decoded) &&
            !decode_hopper(*this, statement, decoded))
          refuse("instruction " + statement.opcode() + " is not known");
      } catch (const std::out_of_range&) {
        refuse("too few operands");
      }
      op = decoded;
    }
    kernel_->ops.push_back(op);
  }

  void directive(Lexer& lexer) {
    const Token what = lexer.take();
    if (what.is(".reg")) {
      const std::string type(lexer.take().text);
      do {
        const std::string name(lexer.take().text);
        const int bytes = register_bytes(type.substr(1));
        if (lexer.accept("<")) {
          lexer.take();
          lexer.expect(">");
          scopes_.back().families[name] = bytes;
        } else {
          scopes_.back().singles[name] = bytes;
        }
      } while (lexer.accept(","));
      lexer.expect(";");
    } else if (what.is(".shared")) {
      read_variable(lexer);
      lexer.expect(";");
    } else if (what.is(".local") || what.is(".param")) {
      take_local(read_variable(lexer));
      lexer.expect(";");
    } else if (what.is(".pragma")) {
      lexer.take();
      lexer.expect(";");
    } else {
      refuse("directive " + std::string(what.text));
    }
  }

  void call(Lexer& lexer) {
    std::vector<std::string> results, arguments;
    const auto names = [&](std::vector<std::string>& into) {
      lexer.expect("(");
      while (!lexer.accept(")")) {
        into.emplace_back(lexer.take().text);
        lexer.accept(",");
      }
    };
    if (lexer.now().is("(")) {
      names(results);
      lexer.expect(",");
    }
    const std::string function(lexer.take().text);
    if (lexer.accept(",")) names(arguments);
    lexer.expect(";");
    const auto found = bodies_.find(function);
    if (found == bodies_.end()) refuse("function " + function + " is not known");
    const Module::Body& body = *found->second;
    if (results.size() != body.results.size() || arguments.size() != body.parameters.size()) refuse("operands of a call");
    if (++inline_depth_ > 8) refuse("calls too deep");
    Scope scope;
    for (size_t i = 0; i < results.size(); ++i) scope.symbols[body.results[i].name] = find_symbol(results[i]);
    for (size_t i = 0; i < arguments.size(); ++i) scope.symbols[body.parameters[i].name] = find_symbol(arguments[i]);
    const size_t outer = first_scope_;
    first_scope_ = scopes_.size();
    scopes_.push_back(std::move(scope));
    decode_body(body);
    scopes_.pop_back();
    first_scope_ = outer;
    --inline_depth_;
  }

  static bool parse_number(const std::string& text, Operand& operand) {
    if (text.empty() || text[0] < '0' || text[0] > '9') return false;
    operand.what = Operand::number;
    if (text.size() > 2 && text[0] == '0' && std::strchr("fFdD", text[1])) {
      operand.is_float = true;
      operand.bits = std::stoull(text.substr(2), nullptr, 16);
    } else {
      std::string digits = text;
      if (digits.back() == 'U') digits.pop_back();
      operand.bits = std::stoull(digits, nullptr, 0);
    }
    return true;
  }

  Operand read_operand(Lexer& lexer) {
    Operand operand;
    if (lexer.accept("[")) {
      operand.what = Operand::address;
      if (!parse_signed(lexer, operand)) {
        operand.name = std::string(lexer.take().text);
        operand.base_is_symbol = operand.name[0] != '%' && !known_register(operand.name);
      } else {
        operand.what = Operand::address;
        operand.offset = int64_t(operand.bits);
      }
      while (lexer.now().is("+") || lexer.now().is("-")) {
        const bool minus = lexer.take().is("-");
        Operand number;
        if (!parse_signed(lexer, number)) refuse("an offset");
        operand.offset += minus ? -int64_t(number.bits) : int64_t(number.bits);
      }
      if (lexer.accept(",")) operand.parts.push_back(read_operand(lexer));
      lexer.expect("]");
      return operand;
    }
    if (lexer.accept("{")) {
      operand.what = Operand::vector;
      while (!lexer.accept("}")) {
        operand.parts.push_back(read_operand(lexer));
        lexer.accept(",");
      }
      return operand;
    }
    if (parse_signed(lexer, operand)) return operand;
    operand.negated = lexer.accept("!");
    operand.name = std::string(lexer.take().text);
    if (operand.name == "_")
      operand.what = Operand::none;
    else
      operand.what = operand.name[0] == '%' || known_register(operand.name) ? Operand::reg : Operand::symbol;
    if (lexer.accept("|")) operand.parts.push_back(read_operand(lexer));
    while (operand.what == Operand::symbol && (lexer.now().is("+") || lexer.now().is("-"))) {
      const bool minus = lexer.take().is("-");
      Operand number;
      if (!parse_signed(lexer, number)) refuse("an offset");
      operand.what = Operand::address;
      operand.base_is_symbol = true;
      operand.offset += minus ? -int64_t(number.bits) : int64_t(number.bits);
    }
    return operand;
  }

  bool parse_signed(Lexer& lexer, Operand& operand) {
    const bool minus = lexer.now().is("-");
    if (minus) lexer.take();
    if (!parse_number(std::string(lexer.now().text), operand)) {
      if (minus) refuse("a sign without a number");
      return false;
    }
    lexer.take();
    if (minus) operand.bits = -operand.bits;
    return true;
  }

  bool known_register(const std::string& name) const {
    for (size_t s = scopes_.size(); s-- > first_scope_;)
      if (scopes_[s].singles.count(name)) return true;
    return false;
  }

  static constexpr const char* end_of_body = "$end";
  Module& module_;
  const std::map<std::string, std::shared_ptr<Module::Body>>& bodies_;
  std::unique_ptr<Kernel> kernel_;
  std::vector<Scope> scopes_;
  size_t first_scope_ = 0;  // registers of outer functions are not seen
  int inline_depth_ = 0;
  uint32_t line_ = 0, next_ = 0;
  Place zero_ = nowhere;
  std::vector<Constant> constants_;
  std::map<std::pair<uint64_t, int>, Place> constant_places_;
  std::vector<Variable> dynamic_, module_shared_;
};

}  // namespace

std::unique_ptr<Kernel> decode_kernel(Module& module, const std::string& name,
                                      const std::map<std::string, std::shared_ptr<Module::Body>>& bodies) {
  return KernelDecoder(module, bodies).decode(name);
}

}  // namespace ptx

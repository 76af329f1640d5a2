// JSON for tests, of files that are known to be well-formed. In: text. Out: a tree; text that ends early or a member that is missing
// throws.
#pragma once
#include <cstdlib>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace chai {

struct Json {
  enum class Kind { null, boolean, number, text, list, object };
  Kind kind = Kind::null;
  double number = 0;  // a boolean's too
  std::string text;
  std::vector<Json> list;
  std::map<std::string, Json> members;

  bool has(const std::string& name) const {
    const auto at = members.find(name);
    return at != members.end() && at->second.kind != Kind::null;
  }
  const Json& operator[](const std::string& name) const {
    const auto at = members.find(name);
    if (at == members.end()) throw std::runtime_error("JSON: no member " + name);
    return at->second;
  }
  double number_or(const std::string& name, double otherwise) const { return has(name) ? (*this)[name].number : otherwise; }
  int count(const std::string& name) const { return int((*this)[name].number); }
  std::vector<int> integers() const {
    std::vector<int> out;
    for (const Json& item : list) out.push_back(int(item.number));
    return out;
  }
};

class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : at_(text.c_str()), end_(at_ + text.size()) {}
  Json document() {
    Json out = value();
    space();
    if (at_ != end_) fail("text after the end");
    return out;
  }

 private:
  [[noreturn]] void fail(const char* what) const { throw std::runtime_error(std::string("JSON: ") + what); }
  void space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
  }
  char next() {
    space();
    if (at_ == end_) fail("unexpected end");
    return *at_;
  }
  bool skip(char c) {
    if (next() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!skip(c)) fail("unexpected character");
  }
  Json word(const char* name, Json::Kind kind, double number) {
    const std::string wanted = name;
    if (size_t(end_ - at_) < wanted.size() || std::string(at_, wanted.size()) != wanted) fail("unknown word");
    at_ += wanted.size();
    Json out;
    out.kind = kind, out.number = number;
    return out;
  }
  std::string string() {
    std::string out;
    expect('"');
    for (; at_ != end_ && *at_ != '"'; ++at_) {
      if (*at_ == '\\' && ++at_ == end_) break;
      out += *at_;  // escapes only have to be skipped: no test reads such text
    }
    if (at_ == end_) fail("unexpected end");
    ++at_;
    return out;
  }
  Json value() {
    Json out;
    switch (next()) {
      case '{':
        out.kind = Json::Kind::object;
        for (expect('{'); !skip('}'); skip(',')) {
          next();
          std::string name = string();
          expect(':');
          out.members[std::move(name)] = value();
        }
        return out;
      case '[':
        out.kind = Json::Kind::list;
        for (expect('['); !skip(']'); skip(',')) out.list.push_back(value());
        return out;
      case '"':
        out.kind = Json::Kind::text;
        out.text = string();
        return out;
      case 't': return word("true", Json::Kind::boolean, 1);
      case 'f': return word("false", Json::Kind::boolean, 0);
      case 'n': return word("null", Json::Kind::null, 0);
      default: break;
    }
    char* after = nullptr;
    out.kind = Json::Kind::number;
    out.number = std::strtod(at_, &after);
    if (after == at_) fail("not a value");
    at_ = after;
    return out;
  }

  const char* at_;
  const char* end_;
};

}  // namespace chai

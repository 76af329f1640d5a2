// PTX text cut into words. In: text. Out: one token after another, with its line; comments, line directives and blanks left out.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "fault.h"

namespace ptx {

struct Token {
  std::string_view text;  // empty: the end
  uint32_t line = 0;
  bool is(std::string_view what) const { return text == what; }
};

class Lexer {
 public:
  Lexer(std::string_view text, size_t from, size_t to, uint32_t line) : text_(text), at_(from), end_(to), line_(line) { next(); }
  const Token& now() const { return now_; }
  size_t start() const { return start_; }  // of the present token
  Token take() {
    const Token token = now_;
    next();
    return token;
  }
  bool accept(std::string_view what) {
    if (!now_.is(what)) return false;
    next();
    return true;
  }
  void expect(std::string_view what) {
    if (!accept(what))
      throw Unsupported("PTX line " + std::to_string(now_.line) + ": '" + std::string(what) + "' expected before '" +
                        std::string(now_.text) + "'");
  }
  /// From a `{` that was taken, to behind its `}`; gives the offset of that `}`.
  size_t skip_braces() {
    for (int depth = 1;;) {
      if (now_.text.empty()) throw Unsupported("PTX: a brace is not closed");
      if (now_.is("{")) ++depth;
      if (now_.is("}") && --depth == 0) break;
      next();
    }
    const size_t end = start_;
    next();
    return end;
  }

 private:
  static bool in_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$' || c == '%' || c == '.';
  }
  void skip_line() {
    while (at_ < end_ && text_[at_] != '\n') ++at_;
  }
  void next() {
    for (;;) {
      while (at_ < end_ && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
        if (text_[at_++] == '\n') ++line_;
      if (at_ >= end_) {
        now_ = {{}, line_};
        start_ = end_;
        return;
      }
      const std::string_view rest = text_.substr(at_, end_ - at_);
      if (rest.substr(0, 2) == "//" || rest.substr(0, 5) == ".loc\t" || rest.substr(0, 5) == ".loc " || rest.substr(0, 6) == ".file\t" ||
          rest.substr(0, 6) == ".file ") {
        skip_line();
        continue;
      }
      if (rest.substr(0, 2) == "/*") {
        for (at_ += 2; at_ + 1 < end_ && text_.substr(at_, 2) != "*/"; ++at_)
          if (text_[at_] == '\n') ++line_;
        at_ += 2;
        continue;
      }
      break;
    }
    start_ = at_;
    if (text_[at_] == '"') {
      ++at_;
      while (at_ < end_ && text_[at_] != '"') ++at_;
      ++at_;
    } else if (in_word(text_[at_])) {
      while (at_ < end_ && (in_word(text_[at_]) || (text_[at_] == ':' && at_ + 1 < end_ && text_[at_ + 1] == ':')))
        at_ += text_[at_] == ':' ? 2 : 1;
    } else {
      ++at_;
    }
    now_ = {text_.substr(start_, at_ - start_), line_};
  }

  std::string_view text_;
  size_t at_, end_, start_ = 0;
  uint32_t line_;
  Token now_;
};

}  // namespace ptx

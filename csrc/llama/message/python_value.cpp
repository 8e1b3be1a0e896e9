#include "llama/message/python_value.h"

#include <algorithm>
#include <cctype>

namespace llamaherd {
namespace {

// Length of False plus one byte, which detects a longer word.
constexpr std::size_t kMostOfWord = 6;

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

}  // namespace

std::string_view PythonValue::cut(std::string_view text, bool is_last) const {
  PythonValue at = *this;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t n = at.unit(text.substr(begin), is_last);
    if (n == 0) break;
    at.pass_unit(text.substr(begin, n));
    begin += n;
  }
  return text.substr(0, begin);
}

void PythonValue::pass(std::string_view piece) {
  while (!piece.empty()) {
    const std::size_t n = unit(piece, true);
    pass_unit(piece.substr(0, n));
    piece.remove_prefix(n);
  }
}

std::string PythonValue::before() const {
  if (quote_ != 0) return {quote_};
  return follows_word_ ? "a" : "";
}

/// Bytes that are rewritten together; 0: more input is needed.
std::size_t PythonValue::unit(std::string_view text, bool is_last) const {
  const char c = text.front();
  if (quote_ != 0) {
    if (c != '\\') return 1;
    return text.size() >= 2 ? 2 : static_cast<std::size_t>(is_last);
  }
  if (follows_word_ || (c != 'T' && c != 'F' && c != 'N')) return 1;
  std::size_t n = 1;
  while (n < std::min(text.size(), kMostOfWord) && is_word(text[n])) ++n;
  return n == text.size() && n < kMostOfWord && !is_last ? 0 : n;
}

void PythonValue::pass_unit(std::string_view unit) {
  const char c = unit.front();
  if (quote_ != 0) {
    if (c == quote_) quote_ = 0;
  } else if (c == '"' || c == '\'') {
    quote_ = c;
  }
  follows_word_ = is_word(unit.back());
}

}  // namespace llamaherd

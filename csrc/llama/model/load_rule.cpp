#include "llama/model/load_rule.h"

namespace llamaherd {
namespace {

constexpr std::size_t kMaxQuoted = 80;

}  // namespace

void require_rule(bool holds, const std::string& rule) {
  if (!holds) throw ModelLoadError(rule);
}

std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, kMaxQuoted)) {
    if (c >= ' ' && c <= '~') {
      out += c;
      continue;
    }
    constexpr const char* digits = "0123456789abcdef";
    const auto byte = static_cast<unsigned char>(c);
    out += std::string("\\x") + digits[byte >> 4] + digits[byte & 15];
  }
  return out + (text.size() > kMaxQuoted ? "...'" : "'");
}

}  // namespace llamaherd

#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include "common/error.h"

namespace llamaherd {

/// Nesting depth of arrays and objects of a JSON text. For invalid JSON: at least the depth that a
/// parser reaches before the first error.
inline std::size_t json_depth(std::string_view text) {
  std::size_t depth = 0, deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return deepest;
}

// Every nesting level uses stack, here and in llama.cpp.
inline constexpr std::size_t kMaxJsonDepth = 256;

/// Throws InvalidRequestError if a JSON text is nested too deeply.
inline void require_flat(std::string_view json, const char* what) {
  const std::size_t depth = json_depth(json);
  if (depth <= kMaxJsonDepth) return;
  throw InvalidRequestError(std::string(what) + " may be nested at most " +
                            std::to_string(kMaxJsonDepth) + " levels deep; got " +
                            std::to_string(depth));
}

}  // namespace llamaherd

#pragma once

#include <string>
#include <string_view>

#include "common/error.h"

namespace llamaherd {

/// Throws ModelLoadError with `rule` as its message unless `holds`.
void require_rule(bool holds, const std::string& rule);

/// Runs `check`; adds the file's path to a ModelLoadError that it throws.
template <typename Check>
void check_rules(const std::string& path, const Check& check) {
  try {
    check();
  } catch (const ModelLoadError& error) {
    throw ModelLoadError("cannot load " + path + ": " + error.what());
  }
}

/// `text` quoted for a message: escapes all but printable ASCII and truncates long texts.
std::string in_quotes(std::string_view text);

}  // namespace llamaherd

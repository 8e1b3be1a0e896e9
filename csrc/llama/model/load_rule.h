#pragma once

#include <string>
#include <string_view>

#include "common/error.h"

namespace llamaherd {

/// Throws ModelLoadError with `rule` as its text unless the rule holds.
void require_rule(bool holds, const std::string& rule);

/// Runs `check`; a ModelLoadError that it throws names the file that cannot be loaded.
template <typename Check>
void check_rules(const std::string& path, const Check& check) {
  try {
    check();
  } catch (const ModelLoadError& error) {
    throw ModelLoadError("cannot load " + path + ": " + error.what());
  }
}

/// `text` in quotes for a message: all but printable ASCII is escaped, long texts are cut.
std::string in_quotes(std::string_view text);

}  // namespace llamaherd

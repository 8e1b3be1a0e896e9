#pragma once

#include <string>
#include <string_view>

#include "common/stop_strings.h"

namespace llamaherd {

/// Turns the bytes of tokens into text that may be shown: valid UTF-8 (a byte that cannot be part
/// of a character becomes U+FFFD), never a part of a stop string, nothing behind one. Text that may
/// still turn out to be either is held back.
///
/// The stop string that is complete first wins, the longer one among those complete at the same
/// byte, so the result does not depend on how the bytes were cut into tokens.
class Detokenizer {
 public:
  /// `stops` must be valid UTF-8 and not empty strings.
  explicit Detokenizer(SharedValue<StopStrings> stops) : stops_(std::move(stops)) {}

  /// Takes a token's bytes and appends to `out` what may be shown now. With `check_stops` false no
  /// stop string is looked for in what has been held or comes in.
  void put(std::string_view bytes, bool check_stops, std::string& out);

  /// Appends what is still held back.
  void finish(std::string& out);

  /// Whether a stop string was found; put() must not be called any more.
  bool stopped() const { return stopped_; }

 private:
  std::size_t find_stop();

  StopMatcher stops_;
  std::string held_;           // bytes that came in and were not shown
  std::size_t n_matched_ = 0;  // of these, that stops_ was told
  bool stopped_ = false;
};

/// Appends `bytes` to `out` as valid UTF-8 and returns how many bytes it consumed: all, unless
/// `is_final` is false and they end within a character.
std::size_t append_utf8(std::string_view bytes, bool is_final, std::string& out);

}  // namespace llamaherd

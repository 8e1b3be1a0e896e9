#pragma once

#include <string>
#include <string_view>

#include "common/stop_strings.h"

namespace llamaherd {

/// Incremental detokenizer: turns token bytes into text that is safe to emit. The text is valid
/// UTF-8 (bytes that cannot be part of a character become U+FFFD) and contains neither a stop
/// string nor anything after one. Text that may be the start of a stop string or of a character is
/// held back.
///
/// The stop string that completes first ends the text; of several that complete at the same byte,
/// the longest. The result does not depend on how the bytes are divided into tokens.
class Detokenizer {
 public:
  /// `stops` must be non-empty strings of valid UTF-8.
  explicit Detokenizer(SharedValue<StopStrings> stops) : stops_(std::move(stops)) {}

  /// Adds a token's bytes and appends the text that can be emitted to `out`. With `check_stops`
  /// false, neither held nor new text is searched for stop strings.
  void put(std::string_view bytes, bool check_stops, std::string& out);

  /// Appends the text that is still held back.
  void finish(std::string& out);

  /// Whether a stop string was found. put() must not be called afterwards.
  bool stopped() const { return stopped_; }

 private:
  std::size_t find_stop();

  StopMatcher stops_;
  std::string held_;           // received bytes that were not emitted
  std::size_t n_matched_ = 0;  // of them, bytes already passed to stops_
  bool stopped_ = false;
};

/// Appends `bytes` to `out` as valid UTF-8. Returns the number of bytes consumed: all, unless
/// `is_final` is false and they end within a character.
std::size_t append_utf8(std::string_view bytes, bool is_final, std::string& out);

}  // namespace llamaherd

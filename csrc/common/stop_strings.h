#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "common/shared_value.h"

namespace llamaherd {

/// Stop strings, preprocessed for search.
class StopStrings {
 public:
  StopStrings() = default;
  StopStrings(std::vector<std::string> texts);
  StopStrings(std::initializer_list<std::string> texts)
      : StopStrings(std::vector<std::string>(texts)) {}

  const std::vector<std::string>& texts() const { return texts_; }
  bool empty() const { return texts_.empty(); }
  std::size_t size() const { return texts_.size(); }

 private:
  friend class StopMatcher;

  std::vector<std::string> texts_;
  // borders_[i][n]: length of the longest proper prefix of the first n + 1 bytes of text i that is
  // also their suffix (Knuth, Morris and Pratt, SIAM J. Comput. 1977).
  std::vector<std::vector<std::uint32_t>> borders_;
};

/// Searches incoming bytes for stop strings. Amortized constant time per byte and text.
class StopMatcher {
 public:
  explicit StopMatcher(SharedValue<StopStrings> stops)
      : stops_(std::move(stops)), n_matched_(stops_->size()) {}

  bool empty() const { return stops_->empty(); }

  /// Adds a byte. Returns the length of the longest text that ends with it; 0 if none does.
  std::size_t put(char byte);

  /// Length of the longest prefix of a text that is a suffix of the input.
  std::size_t n_open() const;

  /// Resets the input.
  void reset();

 private:
  SharedValue<StopStrings> stops_;
  std::vector<std::uint32_t> n_matched_;  // per text, matched bytes
};

}  // namespace llamaherd

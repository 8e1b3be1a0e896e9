#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "common/shared_value.h"

namespace llamaherd {

/// Texts that end an output, ready to be looked for.
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
  // also their end (Knuth, Morris and Pratt, SIAM J. Comput. 1977).
  std::vector<std::vector<std::uint32_t>> borders_;
};

/// Looks for stop strings in bytes as they come. A byte costs constant time for each text, whatever
/// the texts are.
class StopMatcher {
 public:
  explicit StopMatcher(SharedValue<StopStrings> stops)
      : stops_(std::move(stops)), n_matched_(stops_->size()) {}

  bool empty() const { return stops_->empty(); }

  /// Takes the next byte. Returns the length of the longest text that ends with it; 0: none does.
  std::size_t put(char byte);

  /// Length of the longest beginning of a text that the bytes so far end with.
  std::size_t n_open() const;

  /// Forgets the bytes so far.
  void reset();

 private:
  SharedValue<StopStrings> stops_;
  std::vector<std::uint32_t> n_matched_;  // of each text, bytes at its beginning
};

}  // namespace llamaherd

#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// Copy of the model's vocabulary for the engine, made once at load: the bytes of each token (not
/// always complete UTF-8 characters) and the end-of-generation tokens.
class Vocabulary {
 public:
  /// Adds the next token id, starting at 0. The piece of a special token is empty; `name` is its
  /// visible form.
  void add(std::string_view piece, bool ends_generation, std::string_view name = {}) {
    if (ends_generation) end_of_generation_.push_back(n_vocab());
    if (piece.empty() && !name.empty()) names_.emplace(n_vocab(), name);
    bytes_.append(piece);
    ends_.push_back(bytes_.size());
  }

  std::int32_t n_vocab() const { return static_cast<std::int32_t>(ends_.size()); }

  std::string_view piece(TokenId token) const {
    const std::size_t begin = token == 0 ? 0 : ends_[token - 1];
    return std::string_view(bytes_).substr(begin, ends_[token] - begin);
  }

  /// Name of a special token, or the piece of any other.
  std::string_view name(TokenId token) const {
    const auto at = names_.find(token);
    return at == names_.end() ? piece(token) : at->second;
  }

  /// Ascending.
  std::span<const TokenId> end_of_generation() const { return end_of_generation_; }

  bool ends_generation(TokenId token) const {
    return std::binary_search(end_of_generation_.begin(), end_of_generation_.end(), token);
  }

 private:
  std::string bytes_;
  std::vector<std::size_t> ends_;                   // ends_[t]: end of token t's bytes
  std::unordered_map<TokenId, std::string> names_;  // of special tokens
  std::vector<TokenId> end_of_generation_;
};

}  // namespace llamaherd

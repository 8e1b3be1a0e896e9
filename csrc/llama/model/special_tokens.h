#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "common/types.h"
#include "llama.h"

namespace llamaherd {

/// A part of a text: a special token, or text without special tokens.
struct TextPart {
  std::size_t begin = 0;
  std::size_t end = 0;
  TokenId token = -1;  // -1: text
};

/// Splits texts at special tokens. Same result as llama.cpp, in time linear in the text instead of
/// quadratic in the number of special tokens. Thread-safe.
class SpecialTokens {
 public:
  explicit SpecialTokens(const llama_vocab* vocab);

  /// The non-empty parts of `text` in order. Without `all` only user-defined tokens are recognized,
  /// not control tokens and the unknown token. Whitespace next to a token that strips it belongs to
  /// no part.
  std::vector<TextPart> split(std::string_view text, bool all) const;

  /// Whether any token strips adjacent whitespace.
  bool strip() const { return strip_; }

 private:
  using Rank = std::int32_t;  // position in the order of precedence
  static constexpr Rank kNone = -1;

  struct Special {
    TokenId token;
    std::string_view text;
    bool user_defined;
    bool strips_left;
    bool strips_right;
  };
  struct Node {
    std::int32_t first_child = -1;
    std::int32_t sibling = -1;
    char byte = 0;
    Rank rank = kNone;               // of the token whose name ends here
    Rank user_defined_rank = kNone;  // likewise, among user-defined tokens
  };

  void insert(Rank rank);
  std::int32_t child(std::int32_t node, char byte) const;
  template <typename F>
  void for_each_at(std::string_view text, std::size_t begin, bool all, F&& visit) const;

  std::vector<Special> specials_;  // by rank
  std::vector<Node> nodes_;        // trie of their names
  std::array<std::int32_t, 256> roots_;
  bool strip_ = false;
};

}  // namespace llamaherd

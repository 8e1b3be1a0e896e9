#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "common/types.h"
#include "llama.h"

namespace llamaherd {

/// A part of a text: a special token that it names, or text without any.
struct TextPart {
  std::size_t begin = 0;
  std::size_t end = 0;
  TokenId token = -1;  // -1: text
};

/// Splits texts at the names of special tokens: with the result of llama.cpp, which takes time that
/// grows with the square of their number, in time linear in the text. Thread-safe.
class SpecialTokens {
 public:
  explicit SpecialTokens(const llama_vocab* vocab);

  /// The parts of `text` in their order, none of them empty. Without `all` only user-defined tokens
  /// count, control tokens and the unknown token do not. Blanks beside a token that strips them
  /// belong to no part.
  std::vector<TextPart> split(std::string_view text, bool all) const;

  /// Whether any token strips the blanks beside it.
  bool strip() const { return strip_; }

 private:
  using Rank = std::int32_t;  // place in the order of precedence
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
    Rank user_defined_rank = kNone;  // the same among user-defined tokens
  };

  void insert(Rank rank);
  std::int32_t child(std::int32_t node, char byte) const;
  template <typename F>
  void for_each_at(std::string_view text, std::size_t begin, bool all, F&& visit) const;

  std::vector<Special> specials_;  // by rank
  std::vector<Node> nodes_;        // a trie of their names
  std::array<std::int32_t, 256> roots_;
  bool strip_ = false;
};

}  // namespace llamaherd

#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "common/types.h"
#include "llama.h"
#include "llama/model/special_tokens.h"

namespace llamaherd {

/// From text to tokens: those of llama.cpp, in time and stack that are bounded by the text's size.
/// Thread-safe.
class Tokenizer {
 public:
  /// `vocab` must outlive it; `model` and `pre` are what the file calls its tokenizer and how it
  /// splits texts before. Throws ModelLoadError if a token that it adds to texts is missing.
  Tokenizer(const llama_vocab* vocab, const std::string& model, const std::string& pre);

  /// Token ids of a text. Throws InvalidRequestError if it is too large.
  std::vector<TokenId> encode(const std::string& text, bool add_special, bool parse_special) const;

  /// A number of tokens that the text has at least, by its bytes alone: without computing them.
  std::int64_t least_tokens(const std::string& text) const;

 private:
  void find_ends();
  void append(const std::string& text, std::vector<TokenId>& out) const;
  void append_deep(const std::string& text, std::vector<TokenId>& out) const;

  const llama_vocab* vocab_;
  SpecialTokens special_;
  std::vector<TokenId> before_, behind_;  // what a whole text gets
  std::array<bool, 256> kept_{};          // bytes that are part of some token in any text
  std::int64_t longest_ = 1;              // bytes of a text that one token can stand for
  bool recurses_ = false;                 // once per character of a word
  bool spans_words_ = false;              // of several words
  std::string slow_;                      // its name if runs of blanks or digits take time with
                                          // their square
};

}  // namespace llamaherd

#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "common/types.h"
#include "llama.h"
#include "llama/model/special_tokens.h"

namespace llamaherd {

/// Same tokens as llama.cpp's tokenizer, in time and stack bounded by the text's size. Thread-safe.
class Tokenizer {
 public:
  /// `vocab` must outlive it. `model` and `pre` are the file's tokenizer and pre-tokenizer types.
  /// Throws ModelLoadError if a token that is added to texts is not defined.
  Tokenizer(const llama_vocab* vocab, const std::string& model, const std::string& pre);

  /// Token ids of a text. Throws InvalidRequestError if the text exceeds a limit.
  std::vector<TokenId> encode(const std::string& text, bool add_special, bool parse_special) const;

  /// Lower bound of the number of tokens, from the text's bytes only.
  std::int64_t least_tokens(const std::string& text) const;

 private:
  void find_ends();
  void append(const std::string& text, std::vector<TokenId>& out) const;
  void append_deep(const std::string& text, std::vector<TokenId>& out) const;

  const llama_vocab* vocab_;
  SpecialTokens special_;
  std::vector<TokenId> before_, behind_;  // added before and after a text
  std::array<bool, 256> kept_{};          // bytes that are always part of a token
  std::int64_t longest_ = 1;              // most bytes of text that one token represents
  bool recurses_ = false;                 // once per character of a word
  bool spans_words_ = false;              // of several words
  std::string slow_;  // type of the pre-tokenizer if runs of blanks or digits take quadratic time
};

}  // namespace llamaherd

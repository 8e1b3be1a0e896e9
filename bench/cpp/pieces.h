#pragma once

#include <cstddef>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "request/detokenizer.h"

namespace llamaherd {

/// Typical token bytes.
class Pieces {
 public:
  enum class Kind {
    kWords,       // ASCII
    kCharacters,  // two to four bytes, every other one split between tokens
  };

  Pieces(Kind kind, std::size_t n) {
    while (pieces_.size() < n) {
      if (kind == Kind::kWords) {
        add_word();
      } else {
        add_character();
      }
    }
  }

  /// The pieces above often match prefixes of these but never a whole string.
  static std::vector<std::string> stops() {
    return {"\n\nUser:", "<|end|>", "\u96EA\u82B1\u98DE", "the end"};
  }

  /// Processes all tokens as a request does, and discards the output.
  void put_all(Detokenizer stream) const {
    std::string out;
    for (const std::string_view piece : pieces_) {
      out.clear();
      stream.put(piece, true, out);
    }
    stream.finish(out);
  }

  std::size_t size() const { return pieces_.size(); }

 private:
  void add_word() {
    static constexpr std::string_view kWords[] = {" the", " e", "ing", "\n\n", "User", " of", ",",
                                                  " cat", "<|", "en",  "d",    " a",   ".",   "s"};
    pieces_.emplace_back(kWords[random_() % std::size(kWords)]);
  }

  void add_character() {
    static constexpr std::string_view kCharacters[] = {"\u00E9", "\u0436", "\u96EA",    "\u82B1",
                                                       "\u732B", "\u20AC", "\U0001F402"};
    const std::string character(kCharacters[random_() % std::size(kCharacters)]);
    const std::size_t n = random_() % 2 ? character.size() : 1 + random_() % (character.size() - 1);
    pieces_.push_back(character.substr(0, n));
    if (n < character.size()) pieces_.push_back(character.substr(n));
  }

  std::mt19937 random_{1};
  std::vector<std::string> pieces_;
};

}  // namespace llamaherd

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace llamaherd {

/// Finds where the text of a value in Python or JSON syntax can be split so that llama.cpp's
/// normalize_quotes_to_json (in its chat-peg-parser.cpp) rewrites the pieces to the same result as
/// the whole.
class PythonValue {
 public:
  /// The prefix of `text` that can be rewritten before more input arrives; all of it if `is_last`.
  std::string_view cut(std::string_view text, bool is_last) const;

  void pass(std::string_view piece);

  /// A prefix of at most one byte, rewritten to the same length, that puts the rewriter into the
  /// state after the text passed so far.
  std::string before() const;

 private:
  std::size_t unit(std::string_view text, bool is_last) const;
  void pass_unit(std::string_view unit);

  char quote_ = 0;
  bool follows_word_ = false;
};

}  // namespace llamaherd

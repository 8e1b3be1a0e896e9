#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "peg-parser.h"

namespace llamaherd {

/// A part of the input matched by a tag or a rule of the grammar.
struct ParsedSpan {
  const std::string* rule;  // null: span of a tag
  const std::string* tag;   // null: span of a rule
  std::size_t begin;
  std::size_t end;        // of an open span: end of the match so far
  std::size_t after = 0;  // of a closed span: index of the first span outside it
  bool open = true;
};

/// Runs one of llama.cpp's grammars on input that arrives in pieces. It suspends where the grammar
/// needs a byte that has not arrived, and resumes there: the work per byte does not depend on
/// earlier input, unless the grammar backtracks. The end of the input is never assumed.
class ResumableParser {
 public:
  /// With `keeps_rules`, spans of rules are kept as well as spans of tags. Keeps a reference to
  /// `grammar`.
  ResumableParser(const common_peg_arena& grammar, bool keeps_rules);

  void feed(std::string_view text);

  const std::string& input() const { return input_; }

  /// In order of their beginning; an outer span comes before its inner spans. Backtracking removes
  /// spans from the end.
  const std::vector<ParsedSpan>& spans() const { return spans_; }

  /// Number of spans that may be shown. The others belong to parts that must match completely.
  std::size_t n_visible() const;

  /// Lowest number of spans since the last call.
  std::size_t take_lowest();

  /// End of the confirmed part of an open span.
  std::size_t settled() const;

  /// Bytes examined and rules tried so far.
  std::size_t n_steps() const { return n_steps_; }

 private:
  enum class Outcome { kWaits, kFails, kMatches, kDescends };

  struct Frame {
    common_peg_parser_id parser;
    std::size_t begin;
    std::size_t position;  // end of the match so far
    std::size_t n_done;    // children or repetitions
    std::size_t n_spans;   // at its beginning
  };
  // Result of a child.
  struct Returned {
    bool matches;
    std::size_t end;
    std::size_t n_spans;  // at its beginning
  };
  struct Step;

  void run();
  void push(common_peg_parser_id parser, std::size_t begin);
  void pop(bool matches);
  void drop_spans(std::size_t n_left);
  bool hides(common_peg_parser_id parser) const;

  const common_peg_arena& grammar_;
  const bool keeps_rules_;
  std::string input_;
  std::vector<Frame> frames_;        // empty: the grammar has matched or failed
  std::vector<std::size_t> hiding_;  // frames whose spans are hidden
  std::vector<ParsedSpan> spans_;
  Returned returned_{};
  bool has_returned_ = false;
  std::size_t lowest_ = 0;
  std::size_t n_steps_ = 0;
};

}  // namespace llamaherd

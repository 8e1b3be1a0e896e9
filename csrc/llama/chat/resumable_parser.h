#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "peg-parser.h"

namespace llamaherd {

/// A part of the input that a tag or a rule of the grammar has matched.
struct ParsedSpan {
  const std::string* rule;  // null: of a tag
  const std::string* tag;   // null: of a rule
  std::size_t begin;
  std::size_t end;        // of an open span: what was matched so far
  std::size_t after = 0;  // of a closed span: index of the first span that is not in it
  bool open = true;
};

/// Runs a grammar of llama.cpp's over input that arrives in pieces. It stops where the grammar asks
/// for a byte that has not come, and goes on from there: the work per byte does not depend on what
/// came before, unless the grammar backtracks. Input is never taken to be at its end.
class ResumableParser {
 public:
  /// Spans of rules are kept as well as spans of tags with `keeps_rules`. `grammar` is kept by
  /// reference.
  ResumableParser(const common_peg_arena& grammar, bool keeps_rules);

  void feed(std::string_view text);

  const std::string& input() const { return input_; }

  /// In the order in which they begin; an outer one comes before what is in it. Backtracking
  /// removes spans from the end.
  const std::vector<ParsedSpan>& spans() const { return spans_; }

  /// How many of the spans may be shown: the others are in what the grammar wants whole or not
  /// at all.
  std::size_t n_visible() const;

  /// The lowest number of spans there were since the last call.
  std::size_t take_lowest();

  /// Up to where an open span reaches.
  std::size_t settled() const;

  /// The input is not in this grammar; nothing more is parsed.
  bool failed() const { return state_ == State::kFailed; }

  /// Bytes that were looked at and rules that were tried, since the beginning.
  std::size_t n_steps() const { return n_steps_; }

 private:
  enum class State { kRunning, kDone, kFailed };
  enum class Outcome { kWaits, kFails, kMatches, kDescends };

  struct Frame {
    common_peg_parser_id parser;
    std::size_t begin;
    std::size_t position;  // up to where it has matched
    std::size_t n_done;    // children or repetitions
    std::size_t n_spans;   // when it began
  };
  // Of a child that has returned.
  struct Returned {
    bool matches;
    std::size_t end;
    std::size_t n_spans;  // when it began
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
  std::vector<Frame> frames_;
  std::vector<std::size_t> hiding_;  // the frames whose spans are not visible
  std::vector<ParsedSpan> spans_;
  Returned returned_{};
  bool has_returned_ = false;
  std::size_t lowest_ = 0;
  std::size_t n_steps_ = 0;
  State state_ = State::kRunning;
};

}  // namespace llamaherd

#include "llama/message/resumable_parser.h"

#include <algorithm>
#include <cctype>
#include <utility>
#include <variant>

#include "../common/unicode.h"  // src/ contains a file of this name, too

namespace llamaherd {
namespace {

bool is_hex(char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; }

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

bool in_class(const common_peg_chars_parser& chars, std::uint32_t codepoint) {
  const bool found = std::ranges::any_of(
      chars.ranges, [&](const auto& range) { return range.contains(codepoint); });
  return found != chars.negated;
}

}  // namespace

// One visit of the top frame; a leaf continues at the frame's position. Same semantics as
// parser_executor in llama.cpp's peg-parser.cpp, except at the end of the input.
struct ResumableParser::Step {
  ResumableParser& self;
  Frame& frame;

  std::string_view rest() const { return std::string_view(self.input_).substr(frame.position); }
  bool at_end() const { return frame.position >= self.input_.size(); }
  void advance(std::size_t n) {
    frame.position += n;
    self.n_steps_ += n;
  }
  Outcome descend(common_peg_parser_id child) {
    self.push(child, frame.position);  // invalidates `frame`
    return Outcome::kDescends;
  }

  Outcome operator()(const common_peg_epsilon_parser&) { return Outcome::kMatches; }
  Outcome operator()(const common_peg_start_parser&) {
    return frame.begin == 0 ? Outcome::kMatches : Outcome::kFails;
  }
  Outcome operator()(const common_peg_end_parser&) {
    return at_end() ? Outcome::kWaits : Outcome::kFails;
  }

  Outcome operator()(const common_peg_literal_parser& p) {
    const std::string_view wanted = std::string_view(p.literal).substr(frame.n_done);
    const std::size_t n = std::min(wanted.size(), self.input_.size() - frame.begin - frame.n_done);
    self.n_steps_ += n;
    if (self.input_.compare(frame.begin + frame.n_done, n, wanted, 0, n) != 0) {
      return Outcome::kFails;
    }
    frame.n_done += n;
    if (n < wanted.size()) return Outcome::kWaits;
    frame.position = frame.begin + p.literal.size();
    return Outcome::kMatches;
  }

  Outcome operator()(const common_peg_sequence_parser& p) {
    if (self.has_returned_) {
      if (!self.returned_.matches) return Outcome::kFails;
      frame.position = self.returned_.end;
      ++frame.n_done;
    }
    if (frame.n_done == p.children.size()) return Outcome::kMatches;
    return descend(p.children[frame.n_done]);
  }

  Outcome operator()(const common_peg_choice_parser& p) {
    if (self.has_returned_) {
      if (self.returned_.matches) {
        frame.position = self.returned_.end;
        return Outcome::kMatches;
      }
      ++frame.n_done;
    }
    if (frame.n_done == p.children.size()) return Outcome::kFails;
    return descend(p.children[frame.n_done]);
  }

  Outcome operator()(const common_peg_repetition_parser& p) {
    const auto within = [&](int limit) { return std::cmp_less(frame.n_done, limit); };
    bool stops = false;
    if (self.has_returned_) {
      stops = !self.returned_.matches || self.returned_.end == frame.position;
      if (stops) {
        self.drop_spans(self.returned_.n_spans);
      } else {
        frame.position = self.returned_.end;
        ++frame.n_done;
      }
    }
    if (!stops && (p.max_count == -1 || within(p.max_count))) {
      return at_end() ? Outcome::kWaits : descend(p.child);
    }
    return within(p.min_count) ? Outcome::kFails : Outcome::kMatches;
  }

  Outcome operator()(const common_peg_and_parser& p) {
    if (!self.has_returned_) return descend(p.child);
    return self.returned_.matches ? Outcome::kMatches : Outcome::kFails;
  }
  Outcome operator()(const common_peg_not_parser& p) {
    if (!self.has_returned_) return descend(p.child);
    return self.returned_.matches ? Outcome::kFails : Outcome::kMatches;
  }

  Outcome operator()(const common_peg_any_parser&) {
    const auto read = common_parse_utf8_codepoint(self.input_, frame.position);
    if (read.status == utf8_parse_result::INCOMPLETE) return Outcome::kWaits;
    if (read.status == utf8_parse_result::INVALID) return Outcome::kFails;
    advance(read.bytes_consumed);
    return Outcome::kMatches;
  }

  Outcome operator()(const common_peg_space_parser&) {
    while (!at_end() && is_space(rest().front())) advance(1);
    return at_end() ? Outcome::kWaits : Outcome::kMatches;
  }

  Outcome operator()(const common_peg_chars_parser& p) {
    while (p.max_count == -1 || std::cmp_less(frame.n_done, p.max_count)) {
      const auto read = common_parse_utf8_codepoint(self.input_, frame.position);
      if (read.status == utf8_parse_result::INCOMPLETE) return Outcome::kWaits;
      if (read.status == utf8_parse_result::INVALID || !in_class(p, read.codepoint)) break;
      advance(read.bytes_consumed);
      ++frame.n_done;
    }
    return std::cmp_less(frame.n_done, p.min_count) ? Outcome::kFails : Outcome::kMatches;
  }

  Outcome operator()(const common_peg_string_parser& p) {
    while (!at_end()) {
      const char c = rest().front();
      if (c == p.delimiter) return Outcome::kMatches;
      if (c == '\\') {
        const Outcome escape = read_escape(p.delimiter);
        if (escape != Outcome::kMatches) return escape;
        continue;
      }
      const auto read = common_parse_utf8_codepoint(self.input_, frame.position);
      if (read.status == utf8_parse_result::INCOMPLETE) return Outcome::kWaits;
      if (read.status == utf8_parse_result::INVALID) return Outcome::kFails;
      advance(read.bytes_consumed);
    }
    return Outcome::kWaits;
  }

  Outcome read_escape(char delimiter) {
    const std::string_view text = rest();
    if (text.size() < 2) return Outcome::kWaits;
    const char c = text[1];
    if (c != 'u') {
      if (c != delimiter && std::string_view("\\/bfnrt").find(c) == std::string_view::npos) {
        return Outcome::kFails;
      }
      advance(2);
      return Outcome::kMatches;
    }
    const std::string_view digits = text.substr(2, 4);
    if (!std::ranges::all_of(digits, is_hex)) return Outcome::kFails;
    if (digits.size() < 4) return Outcome::kWaits;
    advance(6);
    return Outcome::kMatches;
  }

  Outcome operator()(const common_peg_until_parser& p) {
    while (!at_end()) {
      const auto read = common_parse_utf8_codepoint(self.input_, frame.position);
      if (read.status == utf8_parse_result::INCOMPLETE) return Outcome::kWaits;
      const std::string_view text = rest();
      bool may_begin = false;
      for (const std::string& delimiter : p.delimiters) {
        if (text.starts_with(delimiter)) return Outcome::kMatches;
        may_begin = may_begin || std::string_view(delimiter).starts_with(text);
      }
      if (may_begin) return Outcome::kWaits;
      advance(read.bytes_consumed);
    }
    return Outcome::kWaits;
  }

  Outcome operator()(const common_peg_tag_parser& p) {
    return spanned(p.child, {nullptr, &p.tag, frame.begin, 0});
  }
  Outcome operator()(const common_peg_rule_parser& p) {
    if (!self.keeps_rules_) return delegated(p.child);
    return spanned(p.child, {&p.name, nullptr, frame.begin, 0});
  }
  Outcome operator()(const common_peg_ref_parser& p) {
    return delegated(self.has_returned_ ? 0 : self.grammar_.get_rule(p.name));
  }
  Outcome operator()(const common_peg_schema_parser& p) { return delegated(p.child); }
  Outcome operator()(const common_peg_atomic_parser& p) { return delegated(p.child); }
  Outcome operator()(const common_peg_gbnf_parser& p) { return delegated(p.child); }
  Outcome operator()(const common_peg_ac_parser& p) { return delegated(p.child); }

  Outcome delegated(common_peg_parser_id child) {
    if (!self.has_returned_) return descend(child);
    if (!self.returned_.matches) return Outcome::kFails;
    frame.position = self.returned_.end;
    return Outcome::kMatches;
  }
  Outcome spanned(common_peg_parser_id child, ParsedSpan span) {
    if (!self.has_returned_) {
      self.spans_.push_back(span);
      return descend(child);
    }
    if (!self.returned_.matches) return Outcome::kFails;
    frame.position = self.returned_.end;
    ParsedSpan& own = self.spans_[frame.n_spans];
    own.end = frame.position;
    own.after = self.spans_.size();
    own.open = false;
    return Outcome::kMatches;
  }
};

ResumableParser::ResumableParser(const common_peg_arena& grammar, bool keeps_rules)
    : grammar_(grammar), keeps_rules_(keeps_rules) {
  push(grammar.root(), 0);
}

void ResumableParser::feed(std::string_view text) {
  input_ += text;
  run();
}

std::size_t ResumableParser::n_visible() const {
  return hiding_.empty() ? spans_.size() : frames_[hiding_.front()].n_spans;
}

std::size_t ResumableParser::take_lowest() { return std::exchange(lowest_, spans_.size()); }

std::size_t ResumableParser::settled() const {
  if (frames_.empty()) return input_.size();
  return hiding_.empty() ? frames_.back().position : frames_[hiding_.front()].begin;
}

void ResumableParser::run() {
  while (!frames_.empty()) {
    ++n_steps_;
    const auto& parser = grammar_.get(frames_.back().parser);
    const Outcome outcome = std::visit(Step{*this, frames_.back()}, parser);
    has_returned_ = false;
    if (outcome == Outcome::kWaits) return;
    if (outcome != Outcome::kDescends) pop(outcome == Outcome::kMatches);
  }
}

void ResumableParser::push(common_peg_parser_id parser, std::size_t begin) {
  if (hides(parser)) hiding_.push_back(frames_.size());
  frames_.push_back({parser, begin, begin, 0, spans_.size()});
}

void ResumableParser::pop(bool matches) {
  const Frame frame = frames_.back();
  frames_.pop_back();
  if (!hiding_.empty() && hiding_.back() == frames_.size()) hiding_.pop_back();
  const auto& parser = grammar_.get(frame.parser);
  const bool looks_ahead = std::holds_alternative<common_peg_and_parser>(parser) ||
                           std::holds_alternative<common_peg_not_parser>(parser);
  if (!matches || looks_ahead) drop_spans(frame.n_spans);
  returned_ = {matches, looks_ahead ? frame.begin : frame.position, frame.n_spans};
  has_returned_ = true;
}

void ResumableParser::drop_spans(std::size_t n_left) {
  spans_.erase(spans_.begin() + static_cast<std::ptrdiff_t>(n_left), spans_.end());
  lowest_ = std::min(lowest_, n_left);
}

bool ResumableParser::hides(common_peg_parser_id parser) const {
  const auto& kind = grammar_.get(parser);
  return std::holds_alternative<common_peg_atomic_parser>(kind) ||
         std::holds_alternative<common_peg_and_parser>(kind) ||
         std::holds_alternative<common_peg_not_parser>(kind);
}

}  // namespace llamaherd

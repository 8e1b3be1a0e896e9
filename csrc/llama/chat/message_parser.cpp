#include "llama/chat/message_parser.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <string_view>
#include <utility>

#include "chat-peg-parser.h"
#include "chat.h"
#include "llama/chat/nested_stack.h"
#include "llama/chat/resumable_parser.h"

namespace llamaherd {
namespace {

using Tags = common_chat_peg_builder;

// In formats whose calls are mapped as trees, an open call is mapped again when it has grown by
// 1/8.
constexpr std::size_t kGrowth = 8;
// Calls that are nested deeper are only parsed at the end of the answer.
constexpr std::size_t kMaxLevels = std::size_t{1} << 14;

std::string_view trimmed(std::string_view text) {
  const std::size_t last = text.find_last_not_of(" \t\n\v\f\r");
  return text.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \n\r\t") == std::string_view::npos;
}

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// Finds where the text of a value in Python or JSON syntax can be split so that llama.cpp's
/// normalize_quotes_to_json (in its chat-peg-parser.cpp) rewrites the pieces to the same result as
/// the whole.
class PythonValue {
 public:
  /// The prefix of `text` that can be rewritten before more input arrives; all of it if `is_last`.
  std::string_view cut(std::string_view text, bool is_last) const {
    PythonValue at = *this;
    std::size_t begin = 0;
    while (begin < text.size()) {
      const std::size_t n = at.unit(text.substr(begin), is_last);
      if (n == 0) break;
      at.pass_unit(text.substr(begin, n));
      begin += n;
    }
    return text.substr(0, begin);
  }

  void pass(std::string_view piece) {
    while (!piece.empty()) {
      const std::size_t n = unit(piece, true);
      pass_unit(piece.substr(0, n));
      piece.remove_prefix(n);
    }
  }

  /// A prefix of at most one byte, rewritten to the same length, that puts the rewriter into the
  /// state after the text passed so far.
  std::string before() const {
    if (quote_ != 0) return {quote_};
    return follows_word_ ? "a" : "";
  }

 private:
  // Length of False plus one byte, which detects a longer word.
  static constexpr std::size_t kMostOfWord = 6;

  /// Bytes that are rewritten together; 0: more input is needed.
  std::size_t unit(std::string_view text, bool is_last) const {
    const char c = text.front();
    if (quote_ != 0) {
      if (c != '\\') return 1;
      return text.size() >= 2 ? 2 : static_cast<std::size_t>(is_last);
    }
    if (follows_word_ || (c != 'T' && c != 'F' && c != 'N')) return 1;
    std::size_t n = 1;
    while (n < std::min(text.size(), kMostOfWord) && is_word(text[n])) ++n;
    return n == text.size() && n < kMostOfWord && !is_last ? 0 : n;
  }

  void pass_unit(std::string_view unit) {
    const char c = unit.front();
    if (quote_ != 0) {
      if (c == quote_) quote_ = 0;
    } else if (c == '"' || c == '\'') {
      quote_ = c;
    }
    follows_word_ = is_word(unit.back());
  }

  char quote_ = 0;
  bool follows_word_ = false;
};

}  // namespace

/// Maps the parser's spans to a message, in order and as soon as they are visible.
class MessageParser::Mapper {
 public:
  Mapper(const common_chat_parser_params& format, bool keeps_rules)
      : parser_(format.parser, keeps_rules), n_prompt_(format.generation_prompt.size()) {}
  virtual ~Mapper() = default;

  void feed(const std::string& text) {
    parser_.feed(text);
    map_new();
  }

  MessageDelta take_new() {
    if (taken_back_ && !extends(*taken_back_)) return {};
    taken_back_.reset();
    read_end_ = std::max(read_end_, message_end_);
    const std::size_t n_content = std::exchange(n_content_, message_.content.size());
    MessageDelta delta{message_.content.substr(n_content), {}, take_new_calls()};
    if (shows_thoughts()) {
      const std::size_t n = std::exchange(n_reasoning_, message_.reasoning_content.size());
      delta.reasoning = message_.reasoning_content.substr(n);
    }
    return delta;
  }

  std::string unread() const { return parser_.input().substr(std::max(read_end_, n_prompt_)); }
  std::size_t n_steps() const { return parser_.n_steps() + n_mapped_; }

 protected:
  const std::string& input() const { return parser_.input(); }
  const std::vector<ParsedSpan>& spans() const { return parser_.spans(); }
  std::size_t n_visible() const { return parser_.n_visible(); }
  std::size_t end_of(const ParsedSpan& span) const {
    return span.open ? std::max(span.begin, parser_.settled()) : span.end;
  }
  std::string_view text_of(const ParsedSpan& span) const {
    return std::string_view(input()).substr(span.begin, end_of(span) - span.begin);
  }

  /// Adds a span to the message. Returns false if it is open and will grow.
  virtual bool map(const ParsedSpan& span) = 0;

  /// The message was reset.
  virtual void forget() = 0;

  void note_mapped(std::size_t n_bytes, std::size_t end) {
    n_mapped_ += n_bytes;
    mapped_end_ = end;
    n_kept_ = next_ + 1;
  }

  /// The new part of an open span.
  std::string_view take_piece(const ParsedSpan& span) {
    const std::string_view piece = text_of(span).substr(n_taken_);
    n_taken_ += piece.size();
    if (!piece.empty()) note_mapped(piece.size(), span.begin + n_taken_);
    return piece;
  }

  common_chat_msg message_;
  std::size_t next_ = 0;     // next span to map
  std::size_t n_taken_ = 0;  // bytes of it that are mapped
  bool shows_blank_thoughts_ = true;

 private:
  void map_new() {
    const std::size_t lowest = parser_.take_lowest();
    if (lowest < n_kept_) map_again();
    if (lowest <= next_) n_taken_ = 0;
    next_ = std::min(next_, lowest);
    while (next_ < n_visible()) {
      const Sizes before = sizes();
      const bool is_done = map(spans()[next_]);
      if (sizes() != before) message_end_ = mapped_end_;
      if (!is_done) break;
      ++next_;
      n_taken_ = 0;
    }
  }

  // The grammar backtracked. The new path usually begins with the same spans.
  void map_again() {
    if (!taken_back_) taken_back_ = read_message();
    message_ = {};
    next_ = n_taken_ = n_kept_ = message_end_ = 0;
    forget();
  }

  // Sizes of the readable parts.
  using Sizes = std::array<std::size_t, 4>;
  Sizes sizes() const {
    const auto& calls = message_.tool_calls;
    return {message_.content.size(), shows_thoughts() ? message_.reasoning_content.size() : 0,
            calls.size(), calls.empty() ? 0 : calls.back().arguments.size()};
  }
  bool shows_thoughts() const {
    return shows_blank_thoughts_ || n_reasoning_ > 0 || !is_blank(message_.reasoning_content);
  }

  common_chat_msg read_message() const {
    common_chat_msg read = message_;
    read.content.resize(n_content_);
    read.reasoning_content.resize(n_reasoning_);
    read.tool_calls.resize(n_calls_);
    if (n_calls_ > 0) read.tool_calls.back().arguments.resize(n_arguments_);
    return read;
  }

  bool extends(const common_chat_msg& read) const {
    const auto begins = [](const common_chat_tool_call& begun, const common_chat_tool_call& call) {
      return call.name == begun.name && call.arguments.starts_with(begun.arguments);
    };
    const auto& calls = message_.tool_calls;
    return message_.content.starts_with(read.content) &&
           message_.reasoning_content.starts_with(read.reasoning_content) &&
           calls.size() >= read.tool_calls.size() &&
           std::equal(read.tool_calls.begin(), read.tool_calls.end(), calls.begin(), begins);
  }

  std::vector<ToolCallDelta> take_new_calls() {
    std::vector<ToolCallDelta> added;
    const auto& calls = message_.tool_calls;
    for (std::size_t i = n_calls_ > 0 ? n_calls_ - 1 : 0; i < calls.size(); ++i) {
      if (i < n_calls_ && calls[i].arguments.size() <= n_arguments_) continue;
      if (i < n_calls_) {
        added.push_back({i, "", "", calls[i].arguments.substr(n_arguments_)});
      } else {
        added.push_back({i, calls[i].id, calls[i].name, calls[i].arguments});
      }
      n_arguments_ = calls[i].arguments.size();
      n_calls_ = i + 1;
    }
    return added;
  }

  ResumableParser parser_;
  const std::size_t n_prompt_;
  std::size_t n_kept_ = 0;       // spans mapped into the message
  std::size_t n_mapped_ = 0;     // bytes mapped
  std::size_t mapped_end_ = 0;   // input position
  std::size_t message_end_ = 0;  // end of the input that contributed to the message
  std::size_t read_end_ = 0;     // end of the input that contributed to returned deltas
  std::optional<common_chat_msg> taken_back_;  // returned, must be reproduced first
  // Returned so far: bytes, calls, and bytes of the last call's arguments.
  std::size_t n_content_ = 0;
  std::size_t n_reasoning_ = 0;
  std::size_t n_calls_ = 0;
  std::size_t n_arguments_ = 0;
};

/// For formats that common_chat_peg_mapper maps: span by span, growing ones in pieces.
class MessageParser::CallMapper : public Mapper {
 public:
  explicit CallMapper(const common_chat_parser_params& format) : Mapper(format, false) {
    shows_blank_thoughts_ = false;
    forget();
  }

 protected:
  bool map(const ParsedSpan& span) override {
    const std::string& tag = *span.tag;
    if (tag == Tags::CONTENT || tag == Tags::REASONING || tag == Tags::TOOL_ARG_STRING_VALUE) {
      const bool was_taken = n_taken_ > 0;
      const std::string_view piece = take_piece(span);
      if (!piece.empty() || (!span.open && !was_taken)) map_text(span, piece);
      return !span.open;
    }
    if (tag == Tags::TOOL_ARGS) return map_arguments(span);
    if (tag == Tags::TOOL_ARG_VALUE) return map_value(span);
    if (tag == Tags::TOOL || tag == Tags::TOOL_ARG || tag == Tags::REASONING_BLOCK) return true;
    if (span.open) return false;
    const std::size_t n_calls = message_.tool_calls.size();
    map_text(span, text_of(span));
    if (tag == Tags::TOOL_OPEN) is_named_ = false;
    if (message_.tool_calls.size() > n_calls) is_named_ = true;
    note_mapped(span.end - span.begin, span.end);
    return true;
  }

  void forget() override {
    nodes_.emplace(message_);
    is_named_ = false;
  }

 private:
  struct Nodes : common_chat_peg_mapper {
    using common_chat_peg_mapper::common_chat_peg_mapper;
    using common_chat_peg_mapper::normalize_container_value;
  };

  void map_text(const ParsedSpan& span, std::string_view text) {
    common_peg_ast_node node{};
    node.tag = *span.tag;
    node.text = text;
    nodes_->map(node);
  }

  std::string& arguments() { return message_.tool_calls.back().arguments; }

  bool map_arguments(const ParsedSpan& span) {
    if (span.begin < input().size() && input()[span.begin] != '{') return true;
    if (!is_named_) {
      if (!span.open) map_text(span, text_of(span));
      return !span.open;
    }
    const std::string_view text = trimmed(text_of(span));
    if (text.size() > n_taken_) {
      if (n_taken_ == 0) arguments().clear();
      arguments() += text.substr(n_taken_);
      note_mapped(text.size() - n_taken_, span.begin + text.size());
      n_taken_ = text.size();
    }
    return !span.open;
  }

  bool map_value(const ParsedSpan& span) {
    const std::string_view text = text_of(span);
    if (!is_named_) {
      if (!span.open) map_text(span, text);
      return !span.open;
    }
    if (n_taken_ == 0) value_ = {};
    const std::string_view piece = value_.cut(text.substr(n_taken_), !span.open);
    if (piece.empty()) return !span.open;
    const std::string before = value_.before();
    value_.pass(piece);
    arguments() +=
        nodes_->normalize_container_value(before + std::string(piece)).substr(before.size());
    n_taken_ += piece.size();
    note_mapped(piece.size(), span.begin + n_taken_);
    return !span.open;
  }

  std::optional<Nodes> nodes_;
  bool is_named_ = false;
  PythonValue value_;  // the value being mapped
};

/// For formats whose calls are mapped as trees of grammar rules.
class MessageParser::TreeMapper : public Mapper {
 public:
  explicit TreeMapper(const common_chat_parser_params& format)
      : Mapper(format, true), format_(format.format) {}

 protected:
  bool map(const ParsedSpan& span) override {
    if (span.tag == nullptr) return true;
    if (*span.tag == Tags::CONTENT) message_.content += take_piece(span);
    if (*span.tag == Tags::REASONING) message_.reasoning_content += take_piece(span);
    if (*span.tag == Tags::CONTENT || *span.tag == Tags::REASONING) return !span.open;
    if (*span.tag != Tags::TOOL) return true;
    const std::size_t size = text_of(span).size();
    if (span.open && size <= n_taken_ + n_taken_ / kGrowth) return false;
    n_taken_ = size;
    map_call(span);
    if (!span.open) next_ = span.after - 1;
    return !span.open;
  }

  void forget() override { is_begun_ = false; }

 private:
  void map_call(const ParsedSpan& span) {
    const std::size_t n_spans = (span.open ? n_visible() : span.after) - next_;
    common_chat_msg mapped = mapped_tree(n_spans);
    if (mapped.tool_calls.empty()) return;
    auto& calls = message_.tool_calls;
    common_chat_tool_call& call = mapped.tool_calls.front();
    if (!is_begun_) calls.emplace_back();
    if (call.arguments.starts_with(calls.back().arguments)) calls.back() = std::move(call);
    note_mapped(text_of(span).size(), end_of(span));
    is_begun_ = span.open;
  }

  common_chat_msg mapped_tree(std::size_t n_spans) {
    common_peg_ast_arena tree;
    common_peg_parse_result root;
    root.nodes.push_back(build(tree, n_spans));
    common_chat_msg mapped;
    if (n_levels_ > kMaxLevels) return mapped;
    run_nested(n_levels_, [&] {
      if (format_ == COMMON_CHAT_FORMAT_PEG_GEMMA4) {
        common_chat_peg_gemma4_mapper(mapped).from_ast(tree, root);
      } else {
        common_chat_peg_minimax_m3_mapper(mapped).from_ast(tree, root);
      }
    });
    return mapped;
  }

  // Builds nodes of the spans from next_ on; children come after their parent in spans, before it
  // in the arena.
  common_peg_ast_id build(common_peg_ast_arena& tree, std::size_t n_spans) {
    std::vector<common_peg_ast_id> ids(n_spans);
    std::vector<std::size_t> depths(n_spans);
    for (std::size_t i = n_spans; i-- > 0;) {
      const ParsedSpan& span = spans()[next_ + i];
      std::vector<common_peg_ast_id> children;
      for (std::size_t j = i + 1; j < after(i, n_spans); j = after(j, n_spans)) {
        children.push_back(ids[j]);
        depths[i] = std::max(depths[i], depths[j] + 1);
      }
      ids[i] = tree.add_node(span.rule != nullptr ? *span.rule : "",
                             span.tag != nullptr ? *span.tag : "", span.begin, end_of(span),
                             text_of(span), std::move(children), span.open);
    }
    n_levels_ = depths.front();
    return ids.front();
  }
  std::size_t after(std::size_t i, std::size_t n_spans) const {
    const ParsedSpan& span = spans()[next_ + i];
    return span.open ? n_spans : span.after - next_;
  }

  const common_chat_format format_;
  bool is_begun_ = false;
  std::size_t n_levels_ = 0;
};

MessageParser::MessageParser(std::shared_ptr<const ChatFormat> format)
    : format_(std::move(format)) {
  const common_chat_parser_params& params = format_->parser();
  if (params.format == COMMON_CHAT_FORMAT_PEG_GEMMA4 ||
      params.format == COMMON_CHAT_FORMAT_PEG_MINIMAX_M3) {
    mapper_ = std::make_unique<TreeMapper>(params);
  } else {
    mapper_ = std::make_unique<CallMapper>(params);
  }
  mapper_->feed(params.generation_prompt);
}

MessageParser::~MessageParser() = default;

MessageDelta MessageParser::read(const std::string& text) {
  mapper_->feed(text);
  return mapper_->take_new();
}

std::string MessageParser::unread() const { return mapper_->unread(); }

std::size_t MessageParser::n_steps() const { return mapper_->n_steps(); }

}  // namespace llamaherd

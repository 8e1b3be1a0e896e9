#include "llama/message/call_mapper.h"

namespace llamaherd {
namespace {

using Tags = common_chat_peg_builder;

std::string_view trimmed(std::string_view text) {
  const std::size_t last = text.find_last_not_of(" \t\n\v\f\r");
  return text.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

}  // namespace

bool CallMapper::map(const ParsedSpan& span) {
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

void CallMapper::map_text(const ParsedSpan& span, std::string_view text) {
  common_peg_ast_node node{};
  node.tag = *span.tag;
  node.text = text;
  nodes_->map(node);
}

bool CallMapper::map_arguments(const ParsedSpan& span) {
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

bool CallMapper::map_value(const ParsedSpan& span) {
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

}  // namespace llamaherd

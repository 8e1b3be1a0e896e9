#include "llama/message/message_mapper.h"

#include <utility>

#include "chat-peg-parser.h"

namespace llamaherd {
namespace {

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \n\r\t") == std::string_view::npos;
}

bool is_text_of_message(const std::string& tag) {
  return tag == common_chat_peg_builder::CONTENT || tag == common_chat_peg_builder::REASONING;
}

}  // namespace

void MessageMapper::feed(const std::string& text) {
  parser_.feed(text);
  map_new();
}

MessageDelta MessageMapper::take_new() {
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

void MessageMapper::note_mapped(std::size_t n_bytes, std::size_t end) {
  n_mapped_ += n_bytes;
  mapped_end_ = end;
  n_kept_ = next_ + 1;
}

std::string_view MessageMapper::take_piece(const ParsedSpan& span) {
  const std::string_view text = text_of(span);
  if (is_text_of_message(*span.tag)) {
    const std::size_t n = std::max(span.begin, n_continued_) - span.begin;
    n_taken_ = std::max(n_taken_, std::min(n, text.size()));
  }
  const std::string_view piece = text.substr(n_taken_);
  n_taken_ += piece.size();
  if (!piece.empty()) note_mapped(piece.size(), span.begin + n_taken_);
  return piece;
}

void MessageMapper::map_new() {
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
void MessageMapper::map_again() {
  if (!taken_back_) taken_back_ = read_message();
  message_ = {};
  next_ = n_taken_ = n_kept_ = message_end_ = 0;
  forget();
}

MessageMapper::Sizes MessageMapper::sizes() const {
  const auto& calls = message_.tool_calls;
  return {message_.content.size(), shows_thoughts() ? message_.reasoning_content.size() : 0,
          calls.size(), calls.empty() ? 0 : calls.back().arguments.size()};
}

bool MessageMapper::shows_thoughts() const {
  return shows_blank_thoughts_ || n_reasoning_ > 0 || !is_blank(message_.reasoning_content);
}

common_chat_msg MessageMapper::read_message() const {
  common_chat_msg read = message_;
  read.content.resize(n_content_);
  read.reasoning_content.resize(n_reasoning_);
  read.tool_calls.resize(n_calls_);
  if (n_calls_ > 0) read.tool_calls.back().arguments.resize(n_arguments_);
  return read;
}

bool MessageMapper::extends(const common_chat_msg& read) const {
  const auto begins = [](const common_chat_tool_call& begun, const common_chat_tool_call& call) {
    return call.name == begun.name && call.arguments.starts_with(begun.arguments);
  };
  const auto& calls = message_.tool_calls;
  return message_.content.starts_with(read.content) &&
         message_.reasoning_content.starts_with(read.reasoning_content) &&
         calls.size() >= read.tool_calls.size() &&
         std::equal(read.tool_calls.begin(), read.tool_calls.end(), calls.begin(), begins);
}

std::vector<ToolCallDelta> MessageMapper::take_new_calls() {
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

}  // namespace llamaherd

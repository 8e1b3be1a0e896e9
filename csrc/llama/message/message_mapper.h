#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat.h"
#include "llama/message/message_delta.h"
#include "llama/message/resumable_parser.h"

namespace llamaherd {

/// Maps the parser's spans to a message, in order and as soon as they are visible.
class MessageMapper {
 public:
  MessageMapper(const common_chat_parser_params& format, bool keeps_rules)
      : parser_(format.parser, keeps_rules),
        n_prompt_(format.generation_prompt.size()),
        n_continued_(format.is_continuation ? n_prompt_ : 0) {}
  virtual ~MessageMapper() = default;

  void feed(const std::string& text);

  MessageDelta take_new();

  std::string text() const { return parser_.input().substr(n_prompt_); }
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

  void note_mapped(std::size_t n_bytes, std::size_t end);

  /// The new part of a span of text.
  std::string_view take_piece(const ParsedSpan& span);

  common_chat_msg message_;
  std::size_t next_ = 0;     // next span to map
  std::size_t n_taken_ = 0;  // bytes of it that are mapped
  bool shows_blank_thoughts_ = true;

 private:
  void map_new();
  void map_again();

  // Sizes of the readable parts.
  using Sizes = std::array<std::size_t, 4>;
  Sizes sizes() const;
  bool shows_thoughts() const;
  common_chat_msg read_message() const;
  bool extends(const common_chat_msg& read) const;
  std::vector<ToolCallDelta> take_new_calls();

  ResumableParser parser_;
  const std::size_t n_prompt_;
  const std::size_t n_continued_;  // content and reasoning before are not part of the answer
  std::size_t n_kept_ = 0;         // spans mapped into the message
  std::size_t n_mapped_ = 0;       // bytes mapped
  std::size_t mapped_end_ = 0;     // input position
  std::size_t message_end_ = 0;    // end of the input that contributed to the message
  std::size_t read_end_ = 0;       // end of the input that contributed to returned deltas
  std::optional<common_chat_msg> taken_back_;  // returned, must be reproduced first
  // Returned so far: bytes, calls, and bytes of the last call's arguments.
  std::size_t n_content_ = 0;
  std::size_t n_reasoning_ = 0;
  std::size_t n_calls_ = 0;
  std::size_t n_arguments_ = 0;
};

}  // namespace llamaherd

#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "chat-peg-parser.h"
#include "llama/message/message_mapper.h"
#include "llama/message/python_value.h"

namespace llamaherd {

/// For formats that common_chat_peg_mapper maps: span by span, growing ones in pieces.
class CallMapper final : public MessageMapper {
 public:
  explicit CallMapper(const common_chat_parser_params& format) : MessageMapper(format, false) {
    shows_blank_thoughts_ = false;
    forget();
  }

 protected:
  bool map(const ParsedSpan& span) override;

  void forget() override {
    nodes_.emplace(message_);
    is_named_ = false;
  }

 private:
  struct Nodes : common_chat_peg_mapper {
    using common_chat_peg_mapper::common_chat_peg_mapper;
    using common_chat_peg_mapper::normalize_container_value;
  };
  void map_text(const ParsedSpan& span, std::string_view text);

  std::string& arguments() { return message_.tool_calls.back().arguments; }

  bool map_arguments(const ParsedSpan& span);
  bool map_value(const ParsedSpan& span);

  std::optional<Nodes> nodes_;
  bool is_named_ = false;
  PythonValue value_;  // the value being mapped
};

}  // namespace llamaherd

#include "llama/message/message_parser.h"

#include <utility>

#include "chat.h"
#include "llama/message/call_mapper.h"
#include "llama/message/tree_mapper.h"

namespace llamaherd {

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

std::string MessageParser::text() const { return mapper_->text(); }

std::string MessageParser::unread() const { return mapper_->unread(); }

std::size_t MessageParser::n_steps() const { return mapper_->n_steps(); }

}  // namespace llamaherd

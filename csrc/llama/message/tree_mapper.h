#pragma once

#include <cstddef>

#include "chat-peg-parser.h"
#include "llama/message/message_mapper.h"

namespace llamaherd {

/// For formats whose calls are mapped as trees of grammar rules.
class TreeMapper final : public MessageMapper {
 public:
  explicit TreeMapper(const common_chat_parser_params& format)
      : MessageMapper(format, true), format_(format.format) {}

 protected:
  bool map(const ParsedSpan& span) override;

  void forget() override { is_begun_ = false; }

 private:
  void map_call(const ParsedSpan& span);
  common_chat_msg mapped_tree(std::size_t n_spans);
  common_peg_ast_id build(common_peg_ast_arena& tree, std::size_t n_spans);
  std::size_t after(std::size_t i, std::size_t n_spans) const {
    const ParsedSpan& span = spans()[next_ + i];
    return span.open ? n_spans : span.after - next_;
  }

  const common_chat_format format_;
  bool is_begun_ = false;
  std::size_t n_levels_ = 0;
};

}  // namespace llamaherd

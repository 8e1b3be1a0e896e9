#pragma once

#include <optional>
#include <vector>

#include "chat.h"

namespace llamaherd {

/// Reads the messages of a conversation in OpenAI's format. System and developer messages at the
/// beginning are merged into one, since many templates allow only one. Throws InvalidRequestError.
std::vector<common_chat_msg> read_messages(const common_json& json);

/// Whether the answer continues the last message, an assistant message, whose text then becomes
/// plain text; an empty one is removed instead. `wanted`: null: if it is an assistant message.
/// Throws InvalidRequestError if it cannot be continued.
bool continues_last(std::vector<common_chat_msg>& messages, std::optional<bool> wanted);

}  // namespace llamaherd

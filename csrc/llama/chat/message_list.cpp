#include "llama/chat/message_list.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "common/error.h"
#include "llama/chat/json_depth.h"
#include "llama/common/error_sentence.h"

namespace llamaherd {
namespace {

constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant",
                                                    "tool"};
// As llama.cpp joins the text parts of a message for templates that read only text.
constexpr char kBetweenParts[] = "\n";
constexpr char kBetweenMessages[] = "\n\n";

void check_role(const common_chat_msg& message) {
  if (std::ranges::find(kRoles, message.role) != kRoles.end()) return;
  throw InvalidRequestError(
      "a message's role must be one of system, developer, user, assistant, tool; got '" +
      message.role + "'");
}

/// llama.cpp parses these as JSON for some templates.
void check_depths(const common_chat_msg& message) {
  for (const common_chat_tool_call& call : message.tool_calls) {
    require_flat(call.arguments, "the arguments of a tool call");
  }
  if (message.role != "tool") return;
  require_flat(message.content, "the content of a tool message");
  for (const common_chat_msg_content_part& part : message.content_parts) {
    require_flat(part.text, "the content of a tool message");
  }
}

bool is_instruction(const common_chat_msg& message) {
  return message.role == "system" || message.role == "developer";
}

void merge_leading_instructions(std::vector<common_chat_msg>& messages) {
  const auto end = std::ranges::find_if_not(messages, is_instruction);
  if (end - messages.begin() < 2) return;
  common_chat_msg& first = messages.front();
  first.content = first.render_content(kBetweenParts);
  first.content_parts.clear();
  for (auto message = messages.begin() + 1; message != end; ++message) {
    first.content += kBetweenMessages + message->render_content(kBetweenParts);
  }
  messages.erase(messages.begin() + 1, end);
}

}  // namespace

std::vector<common_chat_msg> read_messages(const common_json& json) {
  std::vector<common_chat_msg> messages;
  try {
    messages = common_chat_msgs_parse_oaicompat(json);
  } catch (const std::exception& error) {
    throw InvalidRequestError("the messages are invalid: " + error_sentence(error.what()));
  }
  if (messages.empty()) {
    throw InvalidRequestError("messages must hold at least 1 message; got 0");
  }
  std::ranges::for_each(messages, check_role);
  std::ranges::for_each(messages, check_depths);
  merge_leading_instructions(messages);
  return messages;
}

bool continues_last(std::vector<common_chat_msg>& messages, std::optional<bool> wanted) {
  common_chat_msg& last = messages.back();
  if (last.role != "assistant") {
    if (!wanted.value_or(false)) return false;
    throw InvalidRequestError(
        "continue_final_message needs a conversation that ends with an assistant message; the last "
        "message has role '" +
        last.role + "'");
  }
  if (!wanted.value_or(true)) return false;
  if (!last.tool_calls.empty()) {
    throw InvalidRequestError(
        "an assistant message with tool calls cannot be continued: append the results as messages "
        "of role tool");
  }
  last.content = last.render_content(kBetweenParts);
  last.content_parts.clear();
  if (!last.content.empty() || !last.reasoning_content.empty()) return true;
  messages.pop_back();
  return false;
}

}  // namespace llamaherd

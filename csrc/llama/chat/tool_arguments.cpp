#include "llama/chat/tool_arguments.h"

#include <algorithm>
#include <string>

#include "chat.h"
#include "json.h"

namespace llamaherd {
namespace {

enum class Kind { kText, kValue, kObject };

Kind kind_of(const std::string& text) {
  try {
    return common_json::parse(text).is_object() ? Kind::kObject : Kind::kValue;
  } catch (const std::exception&) {
    return Kind::kText;
  }
}

bool is_blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\n") == std::string::npos;
}

}  // namespace

bool all_are_objects(const std::vector<common_chat_msg>& messages) {
  return std::ranges::all_of(messages, [](const common_chat_msg& message) {
    return std::ranges::all_of(message.tool_calls, [](const common_chat_tool_call& call) {
      return kind_of(call.arguments) == Kind::kObject;
    });
  });
}

void fit_arguments(std::vector<common_chat_msg>& messages, ArgumentStyle style) {
  for (common_chat_msg& message : messages) {
    for (common_chat_tool_call& call : message.tool_calls) {
      if (is_blank(call.arguments)) call.arguments = "{}";
      const Kind kind = kind_of(call.arguments);
      if (kind == Kind::kObject) continue;
      if (style == ArgumentStyle::kObject) {
        call.arguments = common_json{{"arguments", call.arguments}}.dump();
      } else if (style == ArgumentStyle::kValue && kind == Kind::kText) {
        call.arguments = common_json(call.arguments).dump();
      }
    }
  }
}

}  // namespace llamaherd

#include "llama/chat/tool_arguments.h"

#include <string>

#include "chat.h"
#include "json.h"

namespace llamaherd {
namespace {

bool is_json(const std::string& text, bool object) {
  try {
    const common_json value = common_json::parse(text);
    return !object || value.is_object();
  } catch (const std::exception&) {
    return false;
  }
}

bool is_blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\n") == std::string::npos;
}

}  // namespace

bool fit_arguments(std::vector<common_chat_msg>& messages, ArgumentStyle style) {
  bool has_text = false;
  for (common_chat_msg& message : messages) {
    for (common_chat_tool_call& call : message.tool_calls) {
      if (is_blank(call.arguments)) call.arguments = "{}";
      if (is_json(call.arguments, style == ArgumentStyle::kObject)) continue;
      has_text = true;
      if (style == ArgumentStyle::kText) continue;
      const std::string text = common_json(call.arguments).dump();
      call.arguments = style == ArgumentStyle::kValue ? text : "{\"arguments\": " + text + "}";
    }
  }
  return has_text;
}

}  // namespace llamaherd

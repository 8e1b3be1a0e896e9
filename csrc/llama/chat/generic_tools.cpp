#include "llama/chat/generic_tools.h"

#include <utility>

#include "chat.h"
#include "json.h"

namespace llamaherd {
namespace {

constexpr const char* kBlankLine = "\n\n";

std::string quoted(const std::string& text) { return common_json(text).dump(); }

std::string described(const common_chat_tool& tool) {
  std::string text = "{\"name\": ";
  text += quoted(tool.name);
  text += ", \"description\": ";
  text += quoted(tool.description);
  text += ", \"parameters\": ";
  text += tool.parameters;
  text += "}";
  return text;
}

std::string described(const std::vector<common_chat_tool>& tools) {
  std::string text = "You may call these tools:";
  for (const common_chat_tool& tool : tools) text += '\n' + described(tool);
  return text;
}

void append(std::string& text, const std::string& part) {
  if (!text.empty() && !part.empty()) text += kBlankLine;
  text += part;
}

common_chat_msg plain(std::string role, std::string content) {
  common_chat_msg message;
  message.role = std::move(role);
  message.content = std::move(content);
  return message;
}

common_chat_msg with_calls_in_content(const common_chat_msg& message) {
  common_chat_msg made = plain(message.role, message.render_content());
  made.reasoning_content = message.reasoning_content;
  for (const common_chat_tool_call& call : message.tool_calls) {
    std::string text = "<tool_call>\n{\"name\": ";
    text += quoted(call.name);
    text += ", \"arguments\": ";
    text += call.arguments;
    text += "}\n</tool_call>";
    append(made.content, text);
  }
  return made;
}

void append_to_system(std::vector<common_chat_msg>& messages, const std::string& text) {
  const bool has_system = !messages.empty() && (messages.front().role == "system" ||
                                                messages.front().role == "developer");
  if (!has_system) messages.insert(messages.begin(), plain("system", ""));
  common_chat_msg& system = messages.front();
  std::string content = system.render_content();
  append(content, text);
  system = plain(system.role, std::move(content));
}

}  // namespace

const char* const kGenericToolTemplate = R"(
{%- for tool in tools or [] %}{{- tool | tojson }}{%- endfor %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %})";

std::vector<common_chat_msg> with_calls_as_text(const std::vector<common_chat_msg>& messages) {
  std::vector<common_chat_msg> made;
  bool after_result = false;
  for (const common_chat_msg& message : messages) {
    const bool is_result = message.role == "tool";
    if (is_result) {
      if (!after_result) made.push_back(plain("user", ""));
      std::string result = "<tool_response>\n";
      result += message.render_content();
      result += "\n</tool_response>";
      append(made.back().content, result);
    } else if (after_result && message.role == "user") {
      append(made.back().content, message.render_content());
    } else if (message.tool_calls.empty()) {
      made.push_back(message);
    } else {
      made.push_back(with_calls_in_content(message));
    }
    after_result = is_result;
  }
  return made;
}

void describe_tools(std::vector<common_chat_msg>& messages,
                    const std::vector<common_chat_tool>& tools) {
  if (!tools.empty()) append_to_system(messages, described(tools));
}

void describe_calls(std::vector<common_chat_msg>& messages) {
  append_to_system(messages,
                   "To call a tool, answer with its name and its arguments as JSON:\n"
                   "<tool_call>\n{\"name\": NAME, \"arguments\": ARGUMENTS}\n</tool_call>");
}

}  // namespace llamaherd

#pragma once

#include <string>
#include <vector>

struct common_chat_msg;
struct common_chat_tool;

namespace llamaherd {

// Tools for models whose chat template has none. In the generic format, calls are JSON between
// <tool_call> tags, as in the Hermes format, and results are user messages.

/// Template of the generic format; its prompts are not used.
extern const char* const kGenericToolTemplate;

/// Calls and their results as content, in the generic format.
std::vector<common_chat_msg> with_calls_as_text(const std::vector<common_chat_msg>& messages);

/// Describes tools, if any, in the system message, which is inserted if there is none.
void describe_tools(std::vector<common_chat_msg>& messages,
                    const std::vector<common_chat_tool>& tools);

/// Describes calls in the generic format in the system message.
void describe_calls(std::vector<common_chat_msg>& messages);

}  // namespace llamaherd

#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace llamaherd {

/// Addition to one tool call.
struct ToolCallDelta {
  std::size_t index;      // of the call in the message
  std::string id, name;   // set in the call's first piece; id only if the format has ids
  std::string arguments;  // next piece of the JSON
};

/// Addition to a message.
struct MessageDelta {
  std::string content;
  std::string reasoning;
  std::vector<ToolCallDelta> tool_calls;
};

}  // namespace llamaherd

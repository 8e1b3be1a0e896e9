#pragma once

#include <memory>
#include <string>
#include <vector>

#include "llama/chat/chat_format.h"

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

/// Parses an answer incrementally. The work per byte does not depend on the answer's length. Not
/// thread-safe.
class MessageParser {
 public:
  explicit MessageParser(std::shared_ptr<const ChatFormat> format);
  ~MessageParser();

  /// Adds a piece of the answer and returns what it adds. Text that may begin a marker is held
  /// back.
  MessageDelta read(const std::string& text);

  /// Text of the answer after the part returned by read().
  std::string unread() const;

  /// Work so far: bytes examined and rules tried.
  std::size_t n_steps() const;

 private:
  class Mapper;
  class CallMapper;
  class TreeMapper;

  std::shared_ptr<const ChatFormat> format_;
  std::unique_ptr<Mapper> mapper_;
};

}  // namespace llamaherd

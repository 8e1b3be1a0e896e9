#pragma once

#include <memory>
#include <string>
#include <vector>

#include "llama/chat/chat_format.h"

namespace llamaherd {

/// What was added to one call of a tool.
struct ToolCallDelta {
  std::size_t index;      // of the call in the answer
  std::string id, name;   // empty but with the call's first piece; the id also where there is none
  std::string arguments;  // the next piece of the JSON
};

/// What was added to an answer.
struct MessageDelta {
  std::string content;
  std::string reasoning;
  std::vector<ToolCallDelta> tool_calls;
};

/// Takes an answer apart as it comes; the work per byte does not depend on the answer's length.
/// Used by one thread at a time.
class MessageParser {
 public:
  explicit MessageParser(std::shared_ptr<const ChatFormat> format);
  ~MessageParser();

  /// The next piece of the answer, and what it adds. Holds back text that may begin a marker.
  MessageDelta read(const std::string& text);

  /// The answer's text behind what read() returned last.
  std::string unread() const;

  /// Work done so far, in bytes that were looked at and rules that were tried.
  std::size_t n_steps() const;

 private:
  class Mapper;
  class CallMapper;
  class TreeMapper;

  std::shared_ptr<const ChatFormat> format_;
  std::unique_ptr<Mapper> mapper_;
};

}  // namespace llamaherd

#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "llama/chat/chat_format.h"
#include "llama/message/message_delta.h"

namespace llamaherd {

class MessageMapper;

/// Parses an answer incrementally. The work per byte does not depend on the answer's length. Not
/// thread-safe.
class MessageParser {
 public:
  explicit MessageParser(std::shared_ptr<const ChatFormat> format);
  ~MessageParser();

  /// Adds a piece of the answer and returns what it adds. Text that may begin a marker is held
  /// back.
  MessageDelta read(const std::string& text);

  /// The answer so far.
  std::string text() const;

  /// Text of the answer after the part returned by read().
  std::string unread() const;

  /// Work so far: bytes examined and rules tried.
  std::size_t n_steps() const;

 private:
  std::shared_ptr<const ChatFormat> format_;
  std::unique_ptr<MessageMapper> mapper_;
};

}  // namespace llamaherd

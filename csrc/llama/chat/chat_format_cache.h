#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "llama/chat/chat_format.h"

namespace llamaherd {

/// LRU cache of chat formats, so that equal parsers are built once. Thread-safe.
class ChatFormats {
 public:
  explicit ChatFormats(std::size_t n_most = 64) : n_most_(n_most) {}

  /// `model` must be the same in all calls. Formats of continued messages are not kept: they depend
  /// on the message.
  std::shared_ptr<const ChatFormat> get(const LlamaModel& model, const common_chat_params& params,
                                        bool continues);

 private:
  const std::size_t n_most_;
  std::mutex mutex_;
  std::list<std::pair<std::string, std::shared_ptr<const ChatFormat>>> kept_;  // most recent first
};

}  // namespace llamaherd

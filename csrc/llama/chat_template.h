#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "llama_model.h"

struct common_chat_templates;

namespace llamaherd {

/// A model's chat template, run by the same Jinja engine as llama-server's. Thread-safe.
class ChatTemplate {
 public:
  struct Prompt {
    std::string text;
    std::vector<std::string> stop;  // strings that end the assistant's turn
  };

  /// `source` replaces the model's own template; empty: the model's. Throws ModelLoadError if the
  /// template does not parse.
  ChatTemplate(const LlamaModel& model, const std::string& source);
  ~ChatTemplate();

  /// Whether there is one; apply() throws otherwise.
  bool exists() const { return exists_; }

  /// Messages and tools as JSON in OpenAI's chat format; `tools_json` may be empty. Throws
  /// InvalidRequestError with the template's or the parser's word.
  Prompt apply(const std::string& messages_json, const std::string& tools_json,
               bool add_generation_prompt) const;

 private:
  std::shared_ptr<common_chat_templates> templates_;
  bool exists_;
  bool adds_bos_;
  bool adds_eos_;
  mutable std::mutex mutex_;
};

}  // namespace llamaherd

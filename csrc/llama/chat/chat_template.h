#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "llama/chat/chat_format_cache.h"
#include "llama/model/llama_model.h"

struct common_chat_templates;

namespace llamaherd {

/// What a chat template is given. Docs: BatchEngine.apply_chat_template and submit in
/// python/llamaherd/engine.py.
struct ChatTemplateInputs {
  std::string messages_json;  // OpenAI's chat format
  std::string tools_json;     // the same; may be empty
  std::string tool_choice = "auto";
  bool parallel_tool_calls = true;
  bool thinking = true;
  std::string template_kwargs_json;  // may be empty
  bool add_generation_prompt = true;
};

/// A conversation as the model reads it, and how its answer is read.
struct ChatPrompt {
  std::string text;
  std::vector<std::string> stop;             // strings that end the assistant's turn
  std::vector<TokenId> preserved_tokens;     // special ones that the format is read by
  std::shared_ptr<const ChatFormat> format;  // null: the answer's text is its content
};

/// A model's chat template, run by the same Jinja engine as llama-server's. Thread-safe.
class ChatTemplate {
 public:
  /// `source` replaces the model's own template; empty: the model's. Throws ModelLoadError if the
  /// template does not parse.
  ChatTemplate(const LlamaModel& model, const std::string& source);
  ~ChatTemplate();

  /// Whether there is one; apply() throws otherwise.
  bool exists() const { return exists_; }

  /// Throws InvalidRequestError with the template's or the parser's word. `model` is the one it was
  /// made with.
  ChatPrompt apply(const LlamaModel& model, const ChatTemplateInputs& options) const;

 private:
  std::shared_ptr<common_chat_templates> templates_;
  bool exists_;
  bool shows_tools_ = false;
  bool adds_bos_;
  bool adds_eos_;
  mutable std::mutex mutex_;
  mutable ChatFormats formats_;
};

}  // namespace llamaherd

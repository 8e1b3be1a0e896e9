#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "llama/chat/chat_format_cache.h"
#include "llama/model/llama_model.h"

struct common_chat_params;
struct common_chat_templates;
struct common_chat_templates_inputs;

namespace llamaherd {

/// Inputs of a chat template. Docs: BatchEngine.apply_chat_template and submit in
/// python/llamaherd/engine/batch_engine.py.
struct ChatTemplateInputs {
  std::string messages_json;  // OpenAI's chat format
  std::string tools_json;     // likewise; may be empty
  std::string tool_choice = "auto";
  bool parallel_tool_calls = true;
  bool thinking = true;
  std::string template_kwargs_json;  // may be empty
  bool add_generation_prompt = true;
  std::optional<bool> continue_final_message;
};

/// A rendered conversation and the format of its answer.
struct ChatPrompt {
  std::string text;
  std::vector<std::string> stop;             // end the assistant's turn
  std::vector<TokenId> preserved_tokens;     // special tokens that the format depends on
  std::shared_ptr<const ChatFormat> format;  // null: the answer's text is its content
};

/// A model's chat template, rendered by the Jinja engine of llama-server. Thread-safe.
class ChatTemplate {
 public:
  /// `source` replaces the model's template; empty: the model's. Throws ModelLoadError if the
  /// template cannot be parsed.
  ChatTemplate(const LlamaModel& model, const std::string& source);
  ~ChatTemplate();

  /// Whether there is a template; otherwise apply() throws.
  bool exists() const { return exists_; }

  /// Throws InvalidRequestError with the message of the template or the parser. `model` is the one
  /// passed to the constructor.
  ChatPrompt apply(const LlamaModel& model, const ChatTemplateInputs& options) const;

 private:
  // Both rewrite the messages of `inputs`.
  common_chat_params render(common_chat_templates_inputs& inputs) const;
  /// For templates without tool calls.
  common_chat_params render_generic(common_chat_templates_inputs& inputs) const;

  std::shared_ptr<common_chat_templates> templates_;
  std::shared_ptr<common_chat_templates> generic_;  // format of calls, unless shows_calls_
  bool exists_;
  bool shows_tools_ = false;
  bool shows_calls_ = false;
  bool takes_values_ = false;  // expects arguments of calls as JSON values
  bool adds_bos_;
  bool adds_eos_;
  mutable std::mutex mutex_;
  mutable ChatFormats formats_;
};

}  // namespace llamaherd

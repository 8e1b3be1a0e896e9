#pragma once

#include <memory>
#include <string>
#include <vector>

#include "constraint.h"
#include "llama_model.h"

struct common_chat_params;
struct common_chat_parser_params;

namespace llamaherd {

struct ToolCall {
  std::string id;  // empty in formats that have none
  std::string name;
  std::string arguments;  // JSON
};

/// An assistant's answer, taken apart.
struct ChatMessage {
  std::string content;
  std::string reasoning;
  std::vector<ToolCall> tool_calls;
};

/// How a model writes its answer to one prompt: where its thoughts end, and how it calls tools.
/// Thread-safe.
class ChatFormat {
 public:
  /// Throws InvalidRequestError if the tools' grammar does not parse.
  ChatFormat(const LlamaModel& model, const common_chat_params& params);
  ~ChatFormat();

  /// What the calls of tools must obey; null if the answer is free.
  const std::shared_ptr<Constraint>& constraint() const { return constraint_; }

  /// With `whole` false the text is the beginning of an answer. Throws LlamaHerdError if it is
  /// not in this format.
  ChatMessage parse(const std::string& text, bool whole) const;

 private:
  std::unique_ptr<common_chat_parser_params> parser_;
  std::shared_ptr<Constraint> constraint_;
};

}  // namespace llamaherd

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "llama/model/llama_model.h"

struct common_chat_params;
struct common_chat_parser_params;

namespace llamaherd {

struct ParsedToolCall {
  std::string id;  // empty in formats that have none
  std::string name;
  std::string arguments;  // JSON
};

/// An assistant's answer, taken apart.
struct ChatMessage {
  std::string content;
  std::string reasoning;
  std::vector<ParsedToolCall> tool_calls;
};

/// What calls of tools must obey.
struct ToolGrammar {
  std::string gbnf;   // empty: the answer is free
  bool lazy = false;  // it is obeyed from a trigger on, outside thoughts; else from the beginning
                      // of generation_prompt on
  std::vector<std::string> words,
      patterns;               // the triggers: texts, and expressions of std::regex,
                              // from whose first group on it is obeyed if they have one
  std::string thought_begin;  // empty: thoughts are not told apart
  std::vector<std::string> thought_ends;
  std::string generation_prompt;  // what the prompt holds of the answer
};

/// How a model writes its answer to one prompt: where its thoughts end, and how it calls tools.
/// Thread-safe.
class ChatFormat {
 public:
  ChatFormat(const LlamaModel& model, const common_chat_params& params);
  ~ChatFormat();

  const ToolGrammar& grammar() const { return grammar_; }

  /// The grammar that llama.cpp made for answers.
  const common_chat_parser_params& parser() const { return *parser_; }

  /// An answer, which may be cut short. Throws LlamaHerdError if it is not in this format.
  ChatMessage parse(const std::string& text) const;

 private:
  std::unique_ptr<common_chat_parser_params> parser_;
  ToolGrammar grammar_;
};

}  // namespace llamaherd

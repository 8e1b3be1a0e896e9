#pragma once

#include <memory>
#include <string>
#include <vector>

#include "llama/model/llama_model.h"

struct common_chat_params;
struct common_chat_parser_params;

namespace llamaherd {

struct ParsedToolCall {
  std::string id;  // empty if the format has no ids
  std::string name;
  std::string arguments;  // JSON
};

/// A parsed assistant message.
struct ChatMessage {
  std::string content;
  std::string reasoning;
  std::vector<ParsedToolCall> tool_calls;
};

/// Grammar of tool calls.
struct ToolGrammar {
  std::string gbnf;   // empty: the answer is unconstrained
  bool lazy = false;  // applies from a trigger on, outside reasoning; else to generation_prompt
                      // and the answer
  /// The triggers: strings, and regular expressions (std::regex). The grammar applies from the
  /// first group of an expression on, if it has one.
  std::vector<std::string> words, patterns;
  std::string thought_begin;  // empty: reasoning is not delimited
  std::vector<std::string> thought_ends;
  std::string generation_prompt;  // part of the answer that the prompt contains
};

/// How a model formats its answer to one prompt: reasoning delimiters and tool calls. Thread-safe.
class ChatFormat {
 public:
  /// `continues`: the answer continues a message that is part of the prompt.
  ChatFormat(const LlamaModel& model, const common_chat_params& params, bool continues);
  ~ChatFormat();

  const ToolGrammar& grammar() const { return grammar_; }

  /// A grammar of answers without tool calls whose content is `literal`. Empty if the format has
  /// no content.
  std::string content_grammar(const std::string& literal) const;

  /// llama.cpp's parser for answers.
  const common_chat_parser_params& parser() const { return *parser_; }

  /// Parses an answer, which may be truncated; the part of its message in the prompt is left out.
  /// Throws LlamaHerdError if it does not match the format.
  ChatMessage parse(const std::string& text) const;

 private:
  std::unique_ptr<common_chat_parser_params> parser_;
  ToolGrammar grammar_;
};

}  // namespace llamaherd

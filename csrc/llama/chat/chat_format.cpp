#include "llama/chat/chat_format.h"

#include <algorithm>

#include "chat-peg-parser.h"
#include "chat.h"
#include "common/error.h"
#include "llama/chat/answer_grammar.h"
#include "llama/chat/nested_stack.h"

namespace llamaherd {
namespace {

ToolGrammar grammar_of(const LlamaModel& model, const common_chat_params& params) {
  ToolGrammar grammar{.gbnf = params.grammar,
                      .lazy = params.grammar_lazy,
                      .words = {},
                      .patterns = {},
                      .thought_begin = params.thinking_start_tag,
                      .thought_ends = params.thinking_end_tags,
                      .generation_prompt = params.generation_prompt};
  for (const common_grammar_trigger& trigger : params.grammar_triggers) {
    switch (trigger.type) {
      case COMMON_GRAMMAR_TRIGGER_TYPE_WORD:
        grammar.words.push_back(trigger.value);
        break;
      case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN:
        grammar.patterns.push_back(trigger.value);
        break;
      case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL:
        grammar.patterns.push_back("^(?:" + trigger.value + ")$");
        break;
      case COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN:
        grammar.words.push_back(model.piece(trigger.token, true));
        break;
    }
  }
  return grammar;
}

// The nesting depth is determined by the model's output. It is at most the number of opening
// brackets.
constexpr std::size_t kMaxLevels = std::size_t{1} << 17;

bool opens_level(char c) { return c == '[' || c == '{' || c == '(' || c == '<'; }

std::size_t n_levels(const std::string& text) {
  return static_cast<std::size_t>(std::ranges::count_if(text, opens_level));
}

/// Removes the part of a continued message that the prompt contains.
void cut_prompt(const common_chat_parser_params& params, const std::string& text,
                common_chat_msg& message) {
  using Tags = common_chat_peg_builder;
  const std::string input = params.generation_prompt + text;
  common_peg_parse_context context(input, COMMON_PEG_PARSE_FLAG_LENIENT);
  const common_peg_parse_result result = params.parser.parse(context);
  std::size_t n_content = 0, n_reasoning = 0;
  context.ast.visit(result, [&](const common_peg_ast_node& node) {
    const std::size_t n_prompt = params.generation_prompt.size();
    const std::size_t n = std::min(node.end, n_prompt) - std::min(node.start, n_prompt);
    if (node.tag == Tags::CONTENT) n_content += n;
    if (node.tag == Tags::REASONING) n_reasoning += n;
  });
  message.content.erase(0, n_content);
  message.reasoning_content.erase(0, n_reasoning);
}

}  // namespace

ChatFormat::ChatFormat(const LlamaModel& model, const common_chat_params& params, bool continues)
    : parser_(std::make_unique<common_chat_parser_params>(params)),
      grammar_(grammar_of(model, params)) {
  parser_->reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
  parser_->is_continuation = continues;
  if (params.parser.empty()) {
    parser_->parser = build_chat_peg_parser(
        [](common_chat_peg_builder& p) { return p.content(p.rest()) + p.end(); });
  } else {
    parser_->parser.load(params.parser);
  }
}

ChatFormat::~ChatFormat() = default;

std::string ChatFormat::content_grammar(const std::string& literal) const {
  return content_only_grammar(parser_->parser, literal);
}

ChatMessage ChatFormat::parse(const std::string& text) const {
  common_chat_msg parsed;
  const std::size_t n = n_levels(parser_->generation_prompt) + n_levels(text);
  if (n > kMaxLevels) {
    throw LlamaHerdError("a chat answer may have at most " + std::to_string(kMaxLevels) +
                         " opening brackets; got " + std::to_string(n));
  }
  try {
    run_nested(n, [&] {
      parsed = common_chat_parse(text, /*is_partial=*/false, *parser_);
      if (parser_->is_continuation) cut_prompt(*parser_, text, parsed);
    });
  } catch (const std::exception& error) {
    throw LlamaHerdError(error.what());
  }
  ChatMessage message{std::move(parsed.content), std::move(parsed.reasoning_content), {}};
  for (common_chat_tool_call& call : parsed.tool_calls) {
    message.tool_calls.push_back(
        {std::move(call.id), std::move(call.name), std::move(call.arguments)});
  }
  return message;
}

}  // namespace llamaherd

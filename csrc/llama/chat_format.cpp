#include "chat_format.h"

#include "chat.h"
#include "error.h"
#include "grammar.h"
#include "outside_thought.h"

namespace llamaherd {
namespace {

GrammarTriggers triggers_of(const std::vector<common_grammar_trigger>& from) {
  GrammarTriggers triggers;
  for (const common_grammar_trigger& trigger : from) {
    switch (trigger.type) {
      case COMMON_GRAMMAR_TRIGGER_TYPE_WORD:
        triggers.patterns.push_back(regex_escape(trigger.value));
        break;
      case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN:
        triggers.patterns.push_back(trigger.value);
        break;
      case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL:
        triggers.patterns.push_back("^(?:" + trigger.value + ")$");
        break;
      case COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN:
        triggers.tokens.push_back(trigger.token);
        break;
    }
  }
  return triggers;
}

/// Without the blank that some tokenizers put in front.
std::vector<TokenId> tokens_of(const LlamaModel& model, const std::string& text) {
  std::vector<TokenId> tokens = model.tokenize(text, false, true);
  if (!tokens.empty() && !text.starts_with(' ') && model.piece(tokens[0], true) == " ") {
    tokens.erase(tokens.begin());
  }
  return tokens;
}

std::shared_ptr<Constraint> constraint_of(const LlamaModel& model,
                                          const common_chat_params& params) {
  if (params.grammar.empty()) return nullptr;
  if (!params.grammar_lazy) {
    // It is of the whole turn, of which the prompt holds the beginning.
    auto grammar = std::make_shared<Grammar>(model, params.grammar);
    for (TokenId token : tokens_of(model, params.generation_prompt)) grammar->accept(token);
    if (!grammar->error().empty()) throw InvalidRequestError(grammar->error());
    return grammar;
  }
  auto grammar =
      std::make_shared<Grammar>(model, params.grammar, triggers_of(params.grammar_triggers));
  if (params.thinking_start_tag.empty()) return grammar;
  return std::make_shared<OutsideThought>(model, std::move(grammar), params.thinking_start_tag,
                                          params.thinking_end_tags, params.generation_prompt);
}

}  // namespace

ChatFormat::ChatFormat(const LlamaModel& model, const common_chat_params& params)
    : parser_(std::make_unique<common_chat_parser_params>(params)),
      constraint_(constraint_of(model, params)) {
  parser_->reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
  if (!params.parser.empty()) parser_->parser.load(params.parser);
}

ChatFormat::~ChatFormat() = default;

ChatMessage ChatFormat::parse(const std::string& text, bool whole) const {
  common_chat_msg parsed;
  try {
    parsed = common_chat_parse(text, !whole, *parser_);
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

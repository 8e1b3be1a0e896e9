#include "llama/chat/chat_template.h"

#include "chat.h"
#include "common/error.h"
#include "llama/chat/answer_grammar.h"
#include "llama/chat/generic_tools.h"
#include "llama/chat/json_depth.h"
#include "llama/chat/message_list.h"
#include "llama/chat/template_budget.h"
#include "llama/chat/template_probe.h"
#include "llama/chat/tool_arguments.h"
#include "llama/common/error_sentence.h"
#include "peg-parser.h"

namespace llamaherd {
namespace {

common_json parse(const std::string& text, const char* what) {
  require_flat(text, what);
  try {
    return common_json::parse(text);
  } catch (const std::exception& error) {
    throw InvalidRequestError(std::string(what) +
                              " is not valid JSON: " + error_sentence(error.what()));
  }
}

std::string text_or(const std::string& text, const char* otherwise) {
  return text.empty() ? otherwise : text;
}

/// Converts any exception of `run` to InvalidRequestError.
template <typename F>
auto as_invalid_request(const std::string& what, F&& run) {
  try {
    return run();
  } catch (const std::exception& error) {
    throw InvalidRequestError(what + ": " + error_sentence(error.what()));
  }
}

common_chat_tool_choice tool_choice_of(const std::string& text) {
  if (text == "auto") return COMMON_CHAT_TOOL_CHOICE_AUTO;
  if (text == "required") return COMMON_CHAT_TOOL_CHOICE_REQUIRED;
  if (text == "none") return COMMON_CHAT_TOOL_CHOICE_NONE;
  throw InvalidRequestError("tool_choice must be one of auto, required, none; got '" + text + "'");
}

common_chat_templates_inputs inputs_of(const ChatTemplateInputs& options) {
  common_chat_templates_inputs inputs;
  const common_json messages = parse(options.messages_json, "messages");
  const common_json tools = parse(text_or(options.tools_json, "[]"), "tools");
  const common_json kwargs = parse(text_or(options.template_kwargs_json, "{}"), "template_kwargs");
  inputs.messages = read_messages(messages);
  as_invalid_request("the tools are invalid", [&] {
    inputs.tools = common_chat_tools_parse_oaicompat(tools);
    for (const auto& [name, value] : kwargs.items()) {
      inputs.chat_template_kwargs[name] = value.dump();
    }
    return 0;
  });
  inputs.tool_choice = tool_choice_of(options.tool_choice);
  if (inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED && inputs.tools.empty()) {
    throw InvalidRequestError("tool_choice must be auto or none without tools; got required");
  }
  inputs.parallel_tool_calls = options.parallel_tool_calls;
  inputs.enable_thinking = options.thinking;
  inputs.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;  // separates reasoning from content
  inputs.add_generation_prompt = options.add_generation_prompt;
  if (options.add_generation_prompt &&
      continues_last(inputs.messages, options.continue_final_message)) {
    if (inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED &&
        !inputs.messages.back().content.empty()) {
      throw InvalidRequestError(
          "an answer that must begin with a tool call, or be JSON beside tools, cannot continue "
          "content: set continue_final_message to false");
    }
    // Without thinking, the thoughts in the message are closed and its content is continued.
    inputs.continue_final_message =
        options.thinking ? COMMON_CHAT_CONTINUATION_AUTO : COMMON_CHAT_CONTINUATION_CONTENT;
  }
  return inputs;
}

/// Replaces llama.cpp's grammar of calls where it allows more than the options.
void restrict_calls(const ChatTemplateInputs& options, common_chat_params& params) {
  const bool must_call = options.tool_choice == "required";
  if (must_call && params.grammar.empty()) {
    throw InvalidRequestError(
        "tool_choice must be auto or none: the tool-call format of this model is unknown");
  }
  const bool may_call_once =
      !options.parallel_tool_calls && params.grammar_lazy && !params.parser.empty();
  if (!must_call && !may_call_once) return;
  common_peg_arena parser;
  parser.load(params.parser);
  if (!options.parallel_tool_calls) limit_to_one_call(parser);
  params.grammar = must_call ? calls_only_grammar(parser, params.grammar)
                             : triggered_grammar(parser, params.grammar);
}

}  // namespace

ChatTemplate::ChatTemplate(const LlamaModel& model, const std::string& source)
    : exists_(!source.empty() || llama_model_chat_template(model.get(), nullptr)),
      adds_bos_(llama_vocab_get_add_bos(model.vocab())),
      adds_eos_(llama_vocab_get_add_eos(model.vocab())) {
  if (!exists_) return;
  probe_template(model.get(), source);
  try {
    const TemplateBudget budget;
    templates_ = common_chat_templates_init(model.get(), source);
  } catch (const std::exception& error) {
    throw ModelLoadError(std::string("the chat template does not parse: ") + error.what());
  }
  const std::map<std::string, bool> caps = common_chat_templates_get_caps(templates_.get());
  shows_tools_ = caps.at("supports_tools");
  shows_calls_ = caps.at("supports_tool_calls");
  takes_values_ = caps.at("supports_object_arguments");
  if (!shows_calls_) generic_ = common_chat_templates_init(nullptr, kGenericToolTemplate);
}

ChatTemplate::~ChatTemplate() = default;

ChatPrompt ChatTemplate::apply(const LlamaModel& model, const ChatTemplateInputs& options) const {
  if (!exists_) {
    throw InvalidRequestError(
        "this model has no chat template; pass one as "
        "EngineConfig(chat_template=...) or send a plain prompt");
  }
  common_chat_templates_inputs inputs = inputs_of(options);
  const bool calls_tools = !inputs.tools.empty() && options.tool_choice != "none";
  // Tokens that the tokenizer adds are removed from the rendered text.
  inputs.add_bos = adds_bos_;
  inputs.add_eos = adds_eos_;
  common_chat_params params = as_invalid_request("the chat template rejected the messages", [&] {
    const std::lock_guard lock(mutex_);
    const TemplateBudget budget;
    return shows_calls_ ? render(inputs) : render_generic(inputs);
  });
  ChatPrompt prompt{std::move(params.prompt), std::move(params.additional_stops), {}, nullptr};
  if (!options.add_generation_prompt) return prompt;
  restrict_calls(options, params);
  if (!calls_tools && !params.supports_thinking) return prompt;
  for (const std::string& name : params.preserved_tokens) {
    const std::vector<TokenId> tokens = model.tokenize(name, false, true);
    if (tokens.size() == 1) prompt.preserved_tokens.push_back(tokens[0]);
  }
  const bool continues = inputs.continue_final_message != COMMON_CHAT_CONTINUATION_NONE;
  prompt.format = formats_.get(model, params, continues);
  return prompt;
}

common_chat_params ChatTemplate::render(common_chat_templates_inputs& inputs) const {
  if (!shows_tools_) describe_tools(inputs.messages, inputs.tools);
  if (all_are_objects(inputs.messages)) {
    return common_chat_templates_apply(templates_.get(), inputs);
  }
  const std::vector<common_chat_msg> sent = inputs.messages;
  try {
    fit_arguments(inputs.messages, takes_values_ ? ArgumentStyle::kValue : ArgumentStyle::kText);
    return common_chat_templates_apply(templates_.get(), inputs);
  } catch (const std::exception&) {
    inputs.messages = sent;
  }
  fit_arguments(inputs.messages, ArgumentStyle::kObject);
  return common_chat_templates_apply(templates_.get(), inputs);
}

common_chat_params ChatTemplate::render_generic(common_chat_templates_inputs& inputs) const {
  fit_arguments(inputs.messages, ArgumentStyle::kValue);
  common_chat_templates_inputs plain = inputs;
  plain.messages = with_calls_as_text(inputs.messages);
  if (!shows_tools_) {
    describe_tools(plain.messages, inputs.tools);
    plain.tools.clear();
  }
  if (!inputs.tools.empty()) describe_calls(plain.messages);
  plain.tool_choice = COMMON_CHAT_TOOL_CHOICE_NONE;
  common_chat_params params = common_chat_templates_apply(templates_.get(), plain);
  if (inputs.tools.empty() || inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_NONE) return params;
  common_chat_params format = common_chat_templates_apply(generic_.get(), inputs);
  format.prompt = std::move(params.prompt);
  format.additional_stops = std::move(params.additional_stops);
  return format;
}

}  // namespace llamaherd

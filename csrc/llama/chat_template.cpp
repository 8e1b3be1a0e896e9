#include "chat_template.h"

#include "chat.h"
#include "error.h"

namespace llamaherd {
namespace {

common_json parse(const std::string& text, const char* what) {
  try {
    return common_json::parse(text);
  } catch (const std::exception& error) {
    throw InvalidRequestError(std::string(what) + " is not valid JSON: " + error.what());
  }
}

void check_roles(const std::vector<common_chat_msg>& messages) {
  static const std::vector<std::string> roles = {"system", "developer", "user", "assistant",
                                                 "tool"};
  for (const common_chat_msg& message : messages) {
    if (std::find(roles.begin(), roles.end(), message.role) != roles.end()) continue;
    throw InvalidRequestError(
        "a message's role must be one of system, developer, user, "
        "assistant, tool; got '" +
        message.role + "'");
  }
}

}  // namespace

ChatTemplate::ChatTemplate(const LlamaModel& model, const std::string& source)
    : exists_(!source.empty() || llama_model_chat_template(model.get(), nullptr)),
      adds_bos_(llama_vocab_get_add_bos(model.vocab())),
      adds_eos_(llama_vocab_get_add_eos(model.vocab())) {
  if (!exists_) return;
  try {
    templates_ = common_chat_templates_init(model.get(), source);
  } catch (const std::exception& error) {
    throw ModelLoadError(std::string("the chat template does not parse: ") + error.what());
  }
}

ChatTemplate::~ChatTemplate() = default;

ChatTemplate::Prompt ChatTemplate::apply(const std::string& messages_json,
                                         const std::string& tools_json,
                                         bool add_generation_prompt) const {
  if (!exists_) {
    throw InvalidRequestError(
        "this model has no chat template; pass one as "
        "EngineConfig(chat_template=...) or send a plain prompt");
  }
  common_chat_templates_inputs inputs;
  const common_json messages = parse(messages_json, "messages");
  const common_json tools = parse(tools_json.empty() ? "[]" : tools_json, "tools");
  try {
    inputs.messages = common_chat_msgs_parse_oaicompat(messages);
    inputs.tools = common_chat_tools_parse_oaicompat(tools);
    if (inputs.messages.empty()) {
      throw InvalidRequestError("messages must hold at least 1 message; got 0");
    }
    check_roles(inputs.messages);
    inputs.add_generation_prompt = add_generation_prompt;
    // What the tokenizer will add is taken off the rendered text, so that it stands there once.
    inputs.add_bos = adds_bos_;
    inputs.add_eos = adds_eos_;
    const std::lock_guard lock(mutex_);
    common_chat_params params = common_chat_templates_apply(templates_.get(), inputs);
    return {std::move(params.prompt), std::move(params.additional_stops)};
  } catch (const InvalidRequestError&) {
    throw;
  } catch (const std::exception& error) {
    throw InvalidRequestError(std::string("the chat template refused the messages: ") +
                              error.what());
  }
}

}  // namespace llamaherd

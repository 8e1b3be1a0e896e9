#include "llama/chat/chat_format_cache.h"

#include <algorithm>

#include "chat.h"

namespace llamaherd {
namespace {

void append(std::string& key, const std::string& part) {
  key += std::to_string(part.size()) + ':' + part;
}

/// Cache key: all inputs of a format.
std::string key_of(const common_chat_params& params) {
  std::string key = std::to_string(params.format) + (params.grammar_lazy ? "L" : "");
  append(key, params.grammar);
  append(key, params.parser);
  append(key, params.generation_prompt);
  append(key, params.thinking_start_tag);
  for (const std::string& tag : params.thinking_end_tags) append(key, tag);
  for (const common_grammar_trigger& trigger : params.grammar_triggers) {
    append(key, std::to_string(trigger.type) + ' ' + std::to_string(trigger.token));
    append(key, trigger.value);
  }
  return key;
}

}  // namespace

std::shared_ptr<const ChatFormat> ChatFormats::get(const LlamaModel& model,
                                                   const common_chat_params& params,
                                                   bool continues) {
  if (continues) return std::make_shared<const ChatFormat>(model, params, true);
  std::string key = key_of(params);
  const std::lock_guard lock(mutex_);
  const auto known = std::find_if(kept_.begin(), kept_.end(),
                                  [&](const auto& entry) { return entry.first == key; });
  if (known != kept_.end()) {
    kept_.splice(kept_.begin(), kept_, known);
  } else {
    auto format = std::make_shared<const ChatFormat>(model, params, false);
    kept_.emplace_front(std::move(key), std::move(format));
    if (kept_.size() > n_most_) kept_.pop_back();
  }
  return kept_.front().second;
}

}  // namespace llamaherd

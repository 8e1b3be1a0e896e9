#pragma once

#include <vector>

struct common_chat_msg;

namespace llamaherd {

/// How a template receives the arguments of earlier tool calls.
enum class ArgumentStyle {
  kText,    // as they were written
  kValue,   // as a JSON value
  kObject,  // as a JSON object
};

/// Whether the arguments of all tool calls are JSON objects, which every template takes.
bool all_are_objects(const std::vector<common_chat_msg>& messages);

/// Rewrites the arguments of all tool calls so that llama.cpp accepts them. Empty ones are an empty
/// object. Those that are no JSON value, such as truncated ones, or with kObject no JSON object,
/// become a JSON string or an object that holds the text.
void fit_arguments(std::vector<common_chat_msg>& messages, ArgumentStyle style);

}  // namespace llamaherd

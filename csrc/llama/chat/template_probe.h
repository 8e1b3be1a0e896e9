#pragma once

#include <string>

struct llama_model;

namespace llamaherd {

/// Parses a chat template and renders a plain conversation with it, in a forked child with limits
/// of time and memory, as nothing bounds what a template computes. `source` as
/// common_chat_templates_init() takes it. Throws ModelLoadError if the child does not survive it.
void probe_template(const llama_model* model, const std::string& source);

}  // namespace llamaherd

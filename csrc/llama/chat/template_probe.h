#pragma once

#include <string>

struct llama_model;

namespace llamaherd {

/// Parses a chat template and renders a simple conversation in a forked child with limits on time
/// and memory, as templates can compute without bounds. `source` is as for
/// common_chat_templates_init(). Throws ModelLoadError if the child fails.
void probe_template(const llama_model* model, const std::string& source);

}  // namespace llamaherd

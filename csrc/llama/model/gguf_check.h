#pragma once

#include <string>

namespace llamaherd {

/// Reads the headers of a GGUF file and of its other parts, and throws ModelLoadError for what
/// llama.cpp would not refuse but end the process for: tensors of types it cannot compute with,
/// hyperparameters out of range, a tokenizer that contradicts itself. Weights are not read.
void check_gguf(const std::string& path);

}  // namespace llamaherd

#pragma once

#include <string>

namespace llamaherd {

/// Reads the headers of a GGUF file and of its other parts. Throws ModelLoadError for errors on
/// which llama.cpp would terminate the process: unsupported tensor types, hyperparameters out of
/// range, an inconsistent tokenizer. Does not read weights.
void check_gguf(const std::string& path);

}  // namespace llamaherd

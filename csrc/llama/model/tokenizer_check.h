#pragma once

#include "llama/model/gguf_file.h"

namespace llamaherd {

/// Throws ModelLoadError if the file's tokenizer would crash llama.cpp or make it loop forever.
void check_tokenizer(const GgufFile& file);

}  // namespace llamaherd

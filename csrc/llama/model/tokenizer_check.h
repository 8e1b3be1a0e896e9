#pragma once

#include "llama/model/gguf_file.h"

namespace llamaherd {

/// Throws ModelLoadError if the file's tokenizer is one that llama.cpp would crash on or run for
/// ever with.
void check_tokenizer(const GgufFile& file);

}  // namespace llamaherd

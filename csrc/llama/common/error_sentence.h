#pragma once

#include <string>

namespace llamaherd {

/// The sentence of an error of llama.cpp for clients: without what it quotes of a template's source
/// or of the request. The beginning of the error itself goes to the log. Thread-safe.
std::string error_sentence(const std::string& error);

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace llamaherd {

/// Type names accepted by quantize(), e.g. "q4_0".
std::vector<std::string> quantization_types();

/// Converts the weights of `source` to another type and writes them to `target`. Quantised sources
/// are dequantised first. On failure throws ModelLoadError with the cause and removes `target`.
void quantize(const std::string& source, const std::string& target, const std::string& type,
              std::int32_t n_threads);

}  // namespace llamaherd

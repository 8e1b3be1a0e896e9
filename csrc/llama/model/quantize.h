#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace llamaherd {

/// Names that quantize() takes, e.g. "q4_0".
std::vector<std::string> quantization_types();

/// Writes `source` with its weights in another type to `target`. Already quantised sources are
/// dequantised first. Throws ModelLoadError with the reason, and leaves no file then.
void quantize(const std::string& source, const std::string& target, const std::string& type,
              std::int32_t n_threads);

}  // namespace llamaherd

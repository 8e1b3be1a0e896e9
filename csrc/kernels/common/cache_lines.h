#pragma once

#include <cstddef>

namespace llamaherd::kernels {
namespace {

/// Bytes rounded up to whole cache lines. Internal linkage: see kernel_table.h.
constexpr std::size_t whole_lines(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace
}  // namespace llamaherd::kernels

#pragma once

#include <cstdint>

namespace llamaherd::kernels {
namespace {

/// Bytes of a row of n activations as pairs of BF16 halves: for every 32 inputs, 64 bytes of hi and
/// 64 of lo, each [16 pairs][inputs i and i + 16]. One more pair of cache lines, so that equal
/// inputs of successive rows map to different cache sets.
constexpr std::int64_t split_row_bytes(std::int64_t n) { return (n + 31) / 32 * 128 + 128; }

// Panels and steps of 32 inputs whose unpacked weights are kept for the next rows.
constexpr std::int64_t kKeptPanels = 8, kKeptSteps = 24;
constexpr std::int64_t kSplitScratchBytes = kKeptPanels * kKeptSteps * 2048;

}  // namespace
}  // namespace llamaherd::kernels

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace llamaherd {

/// One round of xxHash64 with another word.
std::uint64_t mix_word(std::uint64_t state, std::uint64_t word);

/// Detects accidental damage, not tampering: rounds of xxHash64 over 8 bytes at a time, in four
/// independent lanes. All operations are invertible, so any change within one aligned word is
/// detected.
std::uint64_t checksum(std::span<const std::byte> bytes, std::uint64_t seed);

}  // namespace llamaherd

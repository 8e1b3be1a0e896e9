#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace llamaherd {

/// xxHash64's round over one more word.
std::uint64_t mix_word(std::uint64_t state, std::uint64_t word);

/// Detects damage, not attack: xxHash64's round, 8 bytes at a time, in four independent lanes. Any
/// change within one aligned word is found for certain, since every operation is invertible.
std::uint64_t checksum(std::span<const std::byte> bytes, std::uint64_t seed);

}  // namespace llamaherd

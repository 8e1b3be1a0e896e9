#include "common/checksum.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace llamaherd {

std::uint64_t mix_word(std::uint64_t state, std::uint64_t word) {
  return std::rotl(state + word * 0xC2B2AE3D27D4EB4Fu, 31) * 0x9E3779B185EBCA87u;
}

std::uint64_t checksum(std::span<const std::byte> bytes, std::uint64_t seed) {
  std::array<std::uint64_t, 4> lanes = {seed, seed + 1, seed + 2, seed + 3};
  const auto mix_block = [&lanes](const std::byte* block) {
    std::array<std::uint64_t, 4> words;
    std::memcpy(words.data(), block, sizeof(words));
    for (std::size_t i = 0; i < words.size(); ++i) lanes[i] = mix_word(lanes[i], words[i]);
  };
  constexpr std::size_t kBlock = sizeof(lanes);
  std::size_t at = 0;
  for (; bytes.size() - at >= kBlock; at += kBlock) mix_block(bytes.data() + at);
  std::array<std::byte, kBlock> rest{};
  std::copy(bytes.begin() + static_cast<std::ptrdiff_t>(at), bytes.end(), rest.begin());
  mix_block(rest.data());
  std::uint64_t hash = bytes.size();
  for (std::uint64_t lane : lanes) hash = mix_word(hash, lane);
  hash = (hash ^ (hash >> 33)) * 0xFF51AFD7ED558CCDu;
  return hash ^ (hash >> 29);
}

}  // namespace llamaherd

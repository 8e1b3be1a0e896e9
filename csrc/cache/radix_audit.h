#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/prefix_cache.h"
#include "cache/radix_state.h"
#include "cache/sequence_id_pool.h"

/// Checks of RadixCache for the engine's invariants. They recount everything and change nothing.
namespace llamaherd::radix_audit {

/// Of all running sequences and holders.
std::vector<PrefixCache::ExpectedLength> expected_lengths(const RadixState& state,
                                                          const SequenceIdPool& holders);

/// One sentence per broken rule. `n_ram_bytes` is the block store's count of bytes in host memory.
std::vector<std::string> violations(const RadixState& state, const SequenceIdPool& holders,
                                    std::int64_t n_ram_bytes);

}  // namespace llamaherd::radix_audit

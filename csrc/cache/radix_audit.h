#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/prefix_cache.h"
#include "cache/radix_state.h"
#include "cache/sequence_id_pool.h"

/// The checks behind RadixCache's part of the engine's invariants. They recount, and read only.
namespace llamaherd::radix_audit {

/// Of all running sequences and holders.
std::vector<PrefixCache::ExpectedLength> expected_lengths(const RadixState& state,
                                                          const SequenceIdPool& holders);

/// One sentence per broken rule. `n_ram_bytes` is what the block store counts in host memory.
std::vector<std::string> violations(const RadixState& state, const SequenceIdPool& holders,
                                    std::int64_t n_ram_bytes);

}  // namespace llamaherd::radix_audit

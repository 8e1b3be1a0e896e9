#pragma once

#include <cstdint>
#include <vector>

#include "cache/pinned_prefixes.h"
#include "cache/prefix_cache.h"
#include "cache/radix_state.h"
#include "cache/radix_tiers.h"
#include "cache/sequence_id_pool.h"
#include "common/types.h"
#include "telemetry/metrics.h"

namespace llamaherd {

/// Which idle prefixes of a RadixCache stay in the KV cache: gives them holders, and takes cells
/// and holders from them when others need these.
///
/// Cells are taken from the ends of evictable leaves, those of the lowest score (see ReuseModel)
/// first and pinned ones last, so that a path is cut back towards its branch point and the rest of
/// it remains usable. A holder is taken from the leaf that is worth least. Reads the tree and the
/// pins; changes which nodes are held and by which holder, and hands evicted data to the tiers.
class RadixEviction {
 public:
  RadixEviction(SequenceIdPool holders, RadixState& state, RadixTiers& tiers,
                const PinnedPrefixes& pins, CacheMetrics& metrics);

  /// As PrefixCache::make_room().
  bool make_room(std::int32_t n, std::vector<KvOp>& ops);
  /// Gives a holder to the path to `node`, which only `seq` holds, a sequence detached from it.
  /// Without one, evicts the path as far as no other sequence id holds it.
  void hold_idle(RadixNode* node, SeqId seq, std::vector<KvOp>& ops);
  /// Evicts all that no running sequence holds, without saving it.
  void clear(std::vector<KvOp>& ops);
  /// After RadixState::clear().
  void forget_all();

  const SequenceIdPool& holders() const { return holders_; }

 private:
  RadixNode* cell_victim(bool pinned_too) const;
  RadixNode* holder_victim() const;
  double holder_worth(const RadixNode* leaf) const;
  void evict(RadixNode* leaf, Pos at, SeqId seq, EvictionReason reason, std::vector<KvOp>& ops);
  SeqId acquire_holder(std::vector<KvOp>& ops);
  void release_unneeded_holders(std::vector<KvOp>& ops);
  void release_holder(SeqId holder, std::vector<KvOp>& ops);

  SequenceIdPool holders_;
  RadixState& state_;
  RadixTiers& tiers_;
  const PinnedPrefixes& pins_;
  CacheMetrics& metrics_;
};

}  // namespace llamaherd

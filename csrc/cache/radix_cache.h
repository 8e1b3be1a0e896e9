#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cache/block_store.h"
#include "cache/prefix_cache.h"
#include "cache/radix_eviction.h"
#include "cache/radix_state.h"
#include "cache/radix_tiers.h"
#include "cost/cost_estimates.h"

namespace llamaherd {

/// The PrefixCache for memories in which any part of a sequence can be shared or removed.
///
/// Every cell of a sequence that is not private belongs to exactly one node of a radix tree: if two
/// sequences have computed the same tokens, the second gives up its cells as soon as it publishes
/// them. The path to a held node (see RadixNodeState) is held by the sequences attached at its end
/// and, if it is the last held node of an idle path, by a holder, a sequence id that is never part
/// of a batch; inner nodes are held by the ids that hold their children.
class RadixCache final : public PrefixCache {
 public:
  struct Options {
    std::int32_t n_seqs = 0;
    std::int32_t n_cells = 0;
    SeqId first_holder = 0;
    std::int32_t n_holders = 0;
    Pos kv_save_block = 256;  // positions per block; bounds how long one copy delays a step
    CostEstimates costs;
  };

  RadixCache(const Options& options, std::unique_ptr<BlockStore> store);

  Match match(CacheNamespace space, std::span<const TokenId> tokens) const override;
  void attach(SeqId seq, std::optional<CacheNamespace> space, std::span<const TokenId> tokens,
              Pos waited_from, std::vector<KvOp>& ops) override;
  void publish(SeqId seq, std::span<const TokenId> tokens, bool at_boundary,
               std::vector<KvOp>& ops) override;
  Pos advance(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) override;
  std::int32_t n_cells_to_restore(SeqId seq, std::span<const TokenId> tokens) const override;
  std::optional<Restore> next_restore(SeqId seq, std::span<const TokenId> tokens) override;
  void restored(SeqId seq, const Restore& piece, bool loaded) override;
  void release(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) override;
  void drop(SeqId seq) override;
  bool make_room(std::int32_t n, std::vector<KvOp>& ops) override;
  void settle() override { tiers_.settle(); }
  void clear(std::vector<KvOp>& ops) override;
  void forget_all() override;
  bool flush_next(std::vector<KvOp>& ops) override { return tiers_.flush_next(ops); }

  std::int32_t n_cells_used() const override { return state_.n_held() + state_.n_private(); }
  std::int32_t n_cells_needed() const override { return state_.n_running() + state_.n_private(); }
  void fill(CacheMetrics& metrics) const override;
  std::vector<ExpectedLength> expected_lengths() const override;
  std::vector<std::string> violations() const override;

 private:
  void follow(SeqId seq, RadixNode* child, std::span<const TokenId> rest, std::vector<KvOp>& ops);
  void absorb(SeqId seq, RadixNode* child, Pos n, std::vector<KvOp>& ops);

  CacheMetrics metrics_;
  RadixState state_;
  RadixTiers tiers_;
  RadixEviction eviction_;
};

}  // namespace llamaherd

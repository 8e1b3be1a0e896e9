#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cache/block_store.h"
#include "cache/pinned_prefixes.h"
#include "cache/prefix_cache.h"
#include "cache/radix_state.h"
#include "cost/cost_estimates.h"
#include "telemetry/metrics.h"

namespace llamaherd {

/// The tiers of a RadixCache below the KV cache: host memory, then files, then ghosts, of which
/// only the usage is remembered. Each tier evicts leaves first, those of the lowest score first and
/// pinned ones last. Reads the tree and the pins; changes the blocks of nodes, splits and removes
/// nodes that are not held.
class RadixTiers {
 public:
  struct Options {
    Pos kv_save_block = 0;
    CostEstimates costs;
  };

  /// Adds a stored node for each range in the files that an earlier process has left.
  RadixTiers(const Options& options, std::unique_ptr<BlockStore> store, RadixState& state,
             const PinnedPrefixes& pins, CacheMetrics& metrics);

  // Saving from the KV cache.
  /// Appends the copies of a held node's data out of the cells of `seq`. Returns whether the data
  /// of the whole node is or will be in a lower tier.
  bool save(RadixNode* node, SeqId seq, std::vector<KvOp>& ops);
  /// After the copies were executed: accounts for the blocks and enforces the limit of host memory.
  void settle();
  /// A stored node becomes held: drops its data from host memory.
  void drop_ram_copies(RadixNode* node);
  /// Drops the data of a node that is not held and of all nodes below it, but not their usage.
  void make_ghost(RadixNode* node);

  // Restoring to the KV cache.
  /// Whether restoring the first n tokens of a stored node takes less time than computing them.
  bool worth_restoring(const RadixNode& node, Pos n) const;
  // As PrefixCache's methods of this name, for a sequence that ends with `node`, or null if it is
  // private.
  std::int32_t n_cells_to_restore(const RadixNode* node, std::span<const TokenId> tokens) const;
  std::optional<PrefixCache::Restore> next_restore(const RadixNode* node,
                                                   std::span<const TokenId> tokens);
  void restored(const RadixNode* node, const PrefixCache::Restore& piece, bool loaded);

  /// As PrefixCache::flush_next().
  bool flush_next(std::vector<KvOp>& ops);

  /// Removes all nodes that are not held.
  void remove_unheld();
  /// Removes all files. Call it after remove_unheld().
  void clear_files();
  /// After RadixState::clear().
  void forget_all();

  std::int64_t n_ram_bytes() const { return store_->n_ram_bytes(); }
  std::int64_t n_disk_bytes() const { return store_->n_disk_bytes(); }

 private:
  RadixNode* stored_child(const RadixNode* node, std::span<const TokenId> tokens) const;
  void evict_from_ram();
  std::int64_t drop_last_block(RadixNode* leaf);
  bool write_to_disk(RadixNode* node, KvBlock& block);
  bool make_room_on_disk(std::int64_t n_bytes, RadixNodeState::Rank rank);
  void remove(RadixNode* node);
  void adopt_files();
  void adopt(const DiskTier::Entry& entry, double score);
  void start_flush();

  Options options_;
  std::unique_ptr<BlockStore> store_;
  RadixState& state_;
  const PinnedPrefixes& pins_;
  CacheMetrics& metrics_;
  std::int64_t n_ghosts_made_ = 0;
  std::vector<std::pair<RadixNode*, std::shared_ptr<KvBlock>>> pending_saves_;  // until settle()
  std::vector<RadixNode*> to_flush_;                                            // a stack
  bool flushing_ = false;
};

}  // namespace llamaherd

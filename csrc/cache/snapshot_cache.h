#pragma once

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "cache/prefix_cache.h"
#include "cache/reuse_model.h"
#include "cache/sequence_id_pool.h"

namespace llamaherd {

/// The PrefixCache of memories with a state that cannot be trimmed: recurrent and hybrid models.
/// Snapshots can be shared: copies on write of a whole sequence at one length, each under a
/// sequence id of its own. They are taken at the ends of prompts, where prompts have diverged,
/// where a sequence ends, and, one for each running sequence, at the end of its last prefill chunk.
class SnapshotCache final : public PrefixCache {
 public:
  struct Options {
    std::int32_t n_seqs = 0;
    std::int32_t n_cells = 0;
    SeqId first_holder = 0;
    std::int32_t n_holders = 0;
  };

  explicit SnapshotCache(const Options& options);
  SnapshotCache(const SnapshotCache&) = delete;
  SnapshotCache& operator=(const SnapshotCache&) = delete;

  Match match(CacheNamespace space, std::span<const TokenId> tokens) const override;
  void attach(SeqId seq, std::optional<CacheNamespace> space, std::span<const TokenId> tokens,
              Pos waited_from, std::vector<KvOp>& ops) override;
  void publish(SeqId seq, std::span<const TokenId> tokens, bool at_boundary,
               std::vector<KvOp>& ops) override;
  Pos advance(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) override;
  std::int32_t n_cells_to_restore(SeqId, std::span<const TokenId>) const override { return 0; }
  std::optional<Restore> next_restore(SeqId, std::span<const TokenId>) override { return {}; }
  void restored(SeqId, const Restore&, bool) override {}
  void release(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) override;
  void drop(SeqId seq) override;
  bool make_room(std::int32_t n, std::vector<KvOp>& ops) override;
  void settle() override {}
  void clear(std::vector<KvOp>& ops) override;
  void forget_all() override;
  bool flush_next(std::vector<KvOp>&) override { return false; }

  std::int32_t n_cells_used() const override { return n_used_; }
  /// Cells that sequences share are counted for each of them: any may have to be computed again.
  std::int32_t n_cells_needed() const override;
  void fill(CacheMetrics& metrics) const override;
  std::vector<ExpectedLength> expected_lengths() const override;
  std::vector<std::string> violations() const override;

 private:
  /// The cells of a range of positions that sequences and snapshots share. They are part of n_used
  /// until the last owner drops them.
  class CellRange {
   public:
    CellRange(std::int32_t n_cells, std::int32_t& n_used) : n_cells_(n_cells), n_used_(n_used) {}
    ~CellRange() { n_used_ -= n_cells_; }
    CellRange(const CellRange&) = delete;
    CellRange& operator=(const CellRange&) = delete;

    std::int32_t n_cells() const { return n_cells_; }

   private:
    std::int32_t n_cells_;
    std::int32_t& n_used_;
  };
  using SharedRanges = std::vector<std::shared_ptr<const CellRange>>;

  struct Snapshot {
    SeqId holder = kNoSeq;
    CacheNamespace space = 0;
    std::vector<TokenId> tokens;
    SharedRanges ranges;  // cover it
    Usage usage;
    SeqId maker = kNoSeq;  // the sequence it was taken from, while that runs

    Pos length() const { return static_cast<Pos>(tokens.size()); }
  };
  using Snapshots = std::list<Snapshot>;

  struct Sequence {
    bool in_use = false;
    std::optional<CacheNamespace> space;
    Pos length = 0;
    SharedRanges ranges;  // cover [0, n_shared); the cells from there on are its own
    Pos n_shared = 0;
    Snapshot* last_chunk = nullptr;  // replaced by the next one
  };

  void share_own_cells(Sequence& sequence);
  void drop_cells(Sequence& sequence);
  Snapshots::iterator find_same(CacheNamespace space, std::span<const TokenId> tokens);
  void fork(const Snapshot& from, SeqId seq, std::vector<KvOp>& ops);
  const Snapshot* find(CacheNamespace space, std::span<const TokenId> tokens) const;
  Snapshot* take(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops);
  SeqId acquire_holder(std::vector<KvOp>& ops);
  bool pinned(const Snapshot& snapshot) const;
  Snapshot* victim();
  void evict(Snapshot* snapshot, EvictionReason reason, std::vector<KvOp>& ops);

  Options options_;
  std::int32_t n_used_ = 0;          // before the members that refer to it
  std::vector<Sequence> sequences_;  // by id
  SequenceIdPool holders_;
  Snapshots snapshots_;
  ReuseModel model_;
  CacheMetrics metrics_;
};

}  // namespace llamaherd

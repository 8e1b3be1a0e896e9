#pragma once

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "cache/prefix_cache.h"
#include "cache/reuse_model.h"
#include "cache/sequence_id_pool.h"

namespace llamaherd {

/// The PrefixCache of memories with a state that cannot be cut: recurrent and hybrid models. What
/// can be shared are snapshots, copies on write of a whole sequence at one length, each under an id
/// of its own. They are taken at the ends of prompts, where prompts were seen to part, where a
/// sequence ends, and, one for each running sequence, at the end of its last prefill chunk.
class SnapshotCache final : public PrefixCache {
 public:
  struct Options {
    std::int32_t n_seqs = 0;
    std::int32_t n_cells = 0;
    SeqId first_holder = 0;
    std::int32_t n_holders = 0;
  };

  explicit SnapshotCache(const Options& options);

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

  std::int32_t n_cells_used() const override { return *n_used_; }
  /// Counted for each sequence by itself: any of them may have to be computed anew.
  std::int32_t n_cells_needed() const override;
  void fill(CacheMetrics& metrics) const override;
  std::vector<ExpectedLength> expected_lengths() const override;
  std::vector<std::string> violations() const override;

 private:
  // Cells that several holders may share; counted out when the last of them goes.
  using Cells = std::shared_ptr<const std::int32_t>;

  struct Snapshot {
    SeqId holder = kNoSeq;
    CacheNamespace space = 0;
    std::vector<TokenId> tokens;
    std::vector<Cells> cells;
    Usage usage;
    SeqId maker = kNoSeq;  // the sequence that made it, while that runs

    Pos length() const { return static_cast<Pos>(tokens.size()); }
  };
  using Snapshots = std::list<Snapshot>;

  struct Live {
    bool in_use = false;
    std::optional<CacheNamespace> space;
    Pos length = 0;
    std::vector<Cells> cells;  // shared with snapshots; what was added since is its own
    Pos n_shared = 0;
    Snapshot* last_chunk = nullptr;  // replaced by the next one
  };

  void share_cells(Live& live);
  void drop_cells(Live& live);
  Snapshots::iterator find_same(CacheNamespace space, std::span<const TokenId> tokens);
  void fork(const Snapshot& from, SeqId seq, std::vector<KvOp>& ops);
  const Snapshot* find(CacheNamespace space, std::span<const TokenId> tokens) const;
  Snapshot* take(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops);
  SeqId acquire_holder(std::vector<KvOp>& ops);
  bool pinned(const Snapshot& snapshot) const;
  Snapshot* victim();
  void evict(Snapshot* snapshot, EvictionReason reason, std::vector<KvOp>& ops);

  Options options_;
  std::shared_ptr<std::int32_t> n_used_ = std::make_shared<std::int32_t>(0);
  std::vector<Live> live_;
  SequenceIdPool holders_;
  Snapshots snapshots_;
  ReuseModel model_;
  CacheMetrics metrics_;
};

}  // namespace llamaherd

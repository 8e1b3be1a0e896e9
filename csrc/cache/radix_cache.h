#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache/block_store.h"
#include "cache/prefix_cache.h"
#include "cache/radix_tree.h"
#include "cache/reuse_model.h"
#include "cache/sequence_id_pool.h"
#include "cost/cost_estimates.h"

namespace llamaherd {

/// The PrefixCache of memories in which any part of a sequence can be shared or removed.
///
/// Every cell of a sequence that is not private belongs to exactly one node of a radix tree: what
/// two sequences have computed twice is given up by the second as soon as it is published. A node
/// is *held* (its tokens have cells), *stored* (a lower tier has their data) or a *ghost* (only how
/// it was used is remembered, for a while); below a stored node nothing is held, below a ghost
/// nothing else is. The path to a held node is held by the sequences attached at its end and, if it
/// is the last held one of an idle path, by a holder, a sequence id that never stands in a batch;
/// inner nodes borrow these.
class RadixCache final : public PrefixCache {
 public:
  struct Options {
    std::int32_t n_seqs = 0;
    std::int32_t n_cells = 0;
    SeqId first_holder = 0;
    std::int32_t n_holders = 0;
    Pos kv_save_block =
        256;  // one block's positions: bounds how long one copy keeps a step waiting
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
  void settle() override;
  void clear(std::vector<KvOp>& ops) override;
  void forget_all() override;
  bool flush_next(std::vector<KvOp>& ops) override;

  std::int32_t n_cells_used() const override { return n_held_ + n_private_; }
  std::int32_t n_cells_needed() const override { return n_running_ + n_private_; }
  void fill(CacheMetrics& metrics) const override;
  std::vector<ExpectedLength> expected_lengths() const override;
  std::vector<std::string> violations() const override;

 private:
  // Where a node stands in one of the orders below; id makes equal scores go by age.
  using Rank = std::pair<double, std::uint64_t>;

  struct NodeState {
    std::uint64_t id = 0;
    bool held = false;
    std::vector<SeqId> attached;       // running sequences whose path ends with this node
    std::int32_t n_running = 0;        // attached here or below
    std::int32_t n_held_children = 0;  // while there is one, it or what is below holds this node
    SeqId holder = kNoSeq;             // holds [0, holder_end)
    Pos holder_end = 0;
    std::vector<std::shared_ptr<KvBlock>> blocks;  // in order; of a held node, copies in files
    Usage usage;
    Pos pinned_end = 0;  // valid in the round of make_room() that set it
    std::int64_t pin_round = 0;
    Rank rank;  // under which it is filed
    double ghost_since = 0;

    bool ghost() const { return !held && blocks.empty(); }
    NodeState split_off(Pos at);
  };
  // Why something goes: which counter is told.
  using Tree = RadixTree<NodeState>;
  using Node = Tree::Node;
  using Order = std::map<Rank, Node*>;

  struct SequenceState {
    bool in_use = false;
    Node* node = nullptr;  // null while in use: private
    Pos n_private = 0;
    bool owns_leaf = false;  // made `node`, and alone extends it
  };

  // radix_cache.cpp: sequences come, grow and go.
  Node* split(Node* node, Pos at);
  Node* add_child(Node* parent, std::span<const TokenId> tokens);
  void enter(Node* node, SeqId seq);
  void descend(Node* child, SeqId seq);
  void leave(SeqId seq);
  void touch(Node* node);
  static SeqId holder(const Node* node);
  void grow(Node* leaf, std::span<const TokenId> tokens);
  void follow(SeqId seq, Node* child, std::span<const TokenId> rest, std::vector<KvOp>& ops);
  void absorb(SeqId seq, Node* child, Pos n, std::vector<KvOp>& ops);
  static void give_up_copy(SeqId seq, const Node* node, Pos begin, Pos end, std::vector<KvOp>& ops);
  void keep(Node* node, SeqId seq, std::vector<KvOp>& ops);
  void prune_root(Node* node);
  Node* stored_behind(SeqId seq, std::span<const TokenId> tokens) const;

  // radix_evict.cpp: what goes and in which order; radix_tiers.cpp: where to, and back.
  void refile(Node* node);
  static bool has_stored_child(const Node* node);
  void unfile(Node* node);
  void set_held(Node* node, bool held);
  void mark_pins();
  Pos pinned_end(const Node* node) const;
  Node* cell_victim(bool pinned_too) const;
  void cut(Node* leaf, Pos at, SeqId seq, EvictionReason reason, std::vector<KvOp>& ops);
  bool save(Node* node, SeqId holder, std::vector<KvOp>& ops);
  void make_ghost(Node* node);
  void shed_ghosts();
  void remove(Node* node);
  SeqId acquire_holder(std::vector<KvOp>& ops);
  void free_holder(SeqId holder, std::vector<KvOp>& ops);
  Node* holder_victim() const;
  double holder_worth(const Node* leaf) const;
  void drop_tail(Node* leaf, std::int64_t& n_dropped);
  void shed_ram();
  bool to_disk(Node* node, KvBlock& block);
  void adopt_files();
  std::vector<TokenId> path_of(const Node* node) const;
  bool worth_restoring(const Node* node, Pos n) const;
  std::int32_t n_free() const { return options_.n_cells - n_cells_used(); }

  Options options_;
  std::unique_ptr<BlockStore> store_;
  Tree tree_;
  std::vector<SequenceState> live_;  // by sequence id
  SequenceIdPool holders_;
  Order evictable_;      // held, without held children, needed by nobody who runs
  Order stored_leaves_;  // stored, without children
  Order in_ram_;         // stored, with data in host memory
  Order ghosts_;         // the oldest first
  std::int64_t n_ghost_tokens_ = 0;
  std::vector<std::pair<Node*, std::shared_ptr<KvBlock>>> unsettled_;  // a save is under way
  std::vector<Node*> to_flush_;                                        // a stack
  bool flushing_ = false;
  ReuseModel model_;
  std::int64_t n_evictions_ = 0;
  std::int64_t pin_round_ = 0;
  std::uint64_t next_id_ = 1;
  std::int32_t n_held_ = 0;     // cells of all nodes
  std::int32_t n_running_ = 0;  // of those with n_running > 0
  std::int32_t n_private_ = 0;
  CacheMetrics metrics_;
};

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "backend/kv_block.h"
#include "cache/pinned_prefixes.h"
#include "cache/radix_tree.h"
#include "cache/reuse_model.h"
#include "common/types.h"

namespace llamaherd {

/// What RadixCache keeps for a node. A node is *held* (its tokens have cells), *stored* (a lower
/// tier has their data) or a *ghost* (only its usage is remembered, for a while). Only held nodes
/// have held children, and ghosts have no children but ghosts.
struct RadixNodeState {
  // The node's key in the orders of RadixState. The id orders equal scores by age.
  using Rank = std::pair<double, std::uint64_t>;

  // Written by RadixState.
  std::uint64_t id = 0;
  bool held = false;
  std::vector<SeqId> attached;       // running sequences whose path ends with this node
  std::int32_t n_running = 0;        // running sequences attached here or below
  std::int32_t n_held_children = 0;  // > 0: the ids that hold the children hold this node as well
  Usage usage;                       // RadixTiers sets that of adopted files
  Pos pinned_end = 0;                // valid if pin_round is the current one
  std::int64_t pin_round = 0;
  Rank rank;

  // Written by RadixEviction; RadixState passes it on to a child that becomes held.
  SeqId holder = kNoSeq;  // holds [0, holder_end) of the path
  Pos holder_end = 0;

  // Written by RadixTiers; RadixState divides and joins them with the nodes.
  std::vector<std::shared_ptr<KvBlock>> blocks;  // in order; of a held node, copies in files
  double ghost_since = 0;

  bool ghost() const { return !held && blocks.empty(); }
  bool stored() const { return !held && !blocks.empty(); }
  bool evictable() const { return held && n_running == 0 && n_held_children == 0; }

  RadixNodeState split_off(Pos at);
};

using RadixNode = RadixTree<RadixNodeState>::Node;

/// A sequence id that holds the whole path to the end of a held node: an attached sequence's, or
/// the holder's.
SeqId holder_of(const RadixNode& node);

/// Whether a child is held or stored.
bool has_cached_child(const RadixNode& node);

/// The radix tree of a RadixCache and the sequences attached to its nodes, with all that follows
/// from both: numbers of cells, and the orders in which nodes leave each tier. Every change of the
/// tree's structure and of the attachments is made here, so that these stay right. Does not
/// use operations on the KV cache, the pool of holders or storage.
class RadixState {
 public:
  using Tree = RadixTree<RadixNodeState>;
  using Order = std::map<RadixNodeState::Rank, RadixNode*>;  // begin() is evicted first

  /// One running sequence. It is attached to a node, or private: its cells are in no node.
  struct Sequence {
    bool in_use = false;
    RadixNode* node = nullptr;  // null: private
    Pos n_private = 0;          // cells of a private sequence
    bool owns_leaf = false;     // it created `node` and is the only one that extends it
  };

  RadixState(std::int32_t n_seqs, std::int32_t n_cells);

  const Tree& tree() const { return tree_; }
  const std::vector<Sequence>& sequences() const { return sequences_; }
  const Sequence& sequence(SeqId seq) const { return sequences_[seq]; }
  const ReuseModel& reuse() const { return reuse_; }

  const Order& evictable() const { return evictable_; }
  const Order& stored_leaves() const { return stored_leaves_; }
  const Order& in_ram() const { return in_ram_; }
  const Order& ghosts() const { return ghosts_; }
  std::int64_t n_ghost_tokens() const { return n_ghost_tokens_; }

  std::int32_t n_nodes() const { return n_nodes_; }
  std::int32_t n_cells() const { return n_cells_; }
  std::int32_t n_held() const { return n_held_; }
  std::int32_t n_running() const { return n_running_; }
  std::int32_t n_private() const { return n_private_; }
  std::int32_t n_free() const { return n_cells_ - n_held_ - n_private_; }

  // Nodes.
  RadixNode* root(CacheNamespace space) { return tree_.root(space); }
  RadixNode* split(RadixNode* node, Pos at);
  RadixNode* add_child(RadixNode* parent, std::span<const TokenId> tokens);
  /// Appends tokens that a running sequence computed to its own leaf.
  void grow(RadixNode* leaf, std::span<const TokenId> tokens);
  /// Moves the first n tokens of `child`, of which some must be left, to its parent, whose only
  /// child it is and to which a running sequence that holds these tokens is attached.
  void shift(RadixNode* child, Pos n);
  /// Counts a use of the node.
  void touch(RadixNode* node);
  void set_held(RadixNode* node, bool held);
  /// Removes a node that is not held and all nodes below it.
  void remove(RadixNode* node);
  void remove_if_empty_root(RadixNode* node);
  /// Enters the node into the orders that its state requires. Call it after a change of `blocks`.
  void reindex(RadixNode* node);
  /// Takes the node out of all orders until the next reindex(): it cannot be evicted meanwhile.
  void unindex(RadixNode* node);

  // Running sequences.
  /// Takes the idle id `seq` into use, private. Throws std::logic_error if it is in use.
  void start(SeqId seq);
  /// Attaches a private sequence without cells.
  void attach(SeqId seq, RadixNode* node);
  /// Moves an attached sequence from a node to a held child of it.
  void descend(SeqId seq, RadixNode* child, bool owns_leaf);
  void set_private_length(SeqId seq, Pos n);
  /// Detaches the sequence. Returns its node, or null. Throws std::logic_error if `seq` is idle.
  RadixNode* stop(SeqId seq);

  // Pins.
  /// Finds the nodes of these prefixes: pinned_end() refers to the last call.
  void mark_pinned(const PinnedPrefixes& pins);
  /// Where the pinned part of the node's edge ends; node.begin if none of it is pinned.
  Pos pinned_end(const RadixNode& node) const;

  /// Removes all nodes and detaches all sequences.
  void clear();

 private:
  Tree tree_;
  std::vector<Sequence> sequences_;  // by id
  ReuseModel reuse_;
  Order evictable_;      // see RadixNodeState::evictable()
  Order stored_leaves_;  // stored, without children but ghosts
  Order in_ram_;         // stored, with data in host memory
  Order ghosts_;         // the oldest first
  std::int64_t n_ghost_tokens_ = 0;
  std::int64_t pin_round_ = 0;
  std::uint64_t next_id_ = 1;
  std::int32_t n_nodes_ = 0;    // without roots
  std::int32_t n_cells_;        // of the KV cache
  std::int32_t n_held_ = 0;     // cells of all nodes
  std::int32_t n_running_ = 0;  // of the nodes with n_running > 0
  std::int32_t n_private_ = 0;  // of private sequences
};

}  // namespace llamaherd

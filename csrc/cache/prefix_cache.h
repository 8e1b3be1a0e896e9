#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/kv_block.h"
#include "cache/pinned_prefixes.h"
#include "common/types.h"
#include "telemetry/metrics.h"

namespace llamaherd {

/// An operation on the backend's KV cache. Executed by CacheOperations.
struct KvOp {
  enum class Kind {
    kRemove,  // Backend::remove()
    kCopy,    // Backend::copy() to `dst`
    kSave,    // Backend::save() to `block`
  };
  Kind kind = Kind::kRemove;
  SeqId seq = kNoSeq;
  Pos begin = 0;
  Pos end = kToEnd;
  SeqId dst = kNoSeq;
  std::shared_ptr<KvBlock> block = nullptr;
};

/// Which sequence ids hold which cells of the KV cache, and how much of it a new request can share.
///
/// Each running sequence is attach()ed to the tokens it begins with, publish()es the tokens it has
/// computed since, and is release()d; its tokens stay cached until others need the cells. Methods
/// append the operations they need to `ops`, to be applied in that order before the next decode.
class PrefixCache {
 public:
  struct Match {
    Pos n_held = 0;        // tokens whose cells can be shared at once
    Pos n_restorable = 0;  // >= n_held: with those worth restoring from the lower tiers
    Pos divergence_pos =
        0;  // > n_held: where the prompt diverges from a cached one whose beginning
            // could be shared only if there were a snapshot at this position
    std::int32_t n_newly_pinned = 0;  // cells of n_held that are evictable without this request
  };

  /// The next piece that a running sequence can restore from the lower tiers.
  struct Restore {
    std::shared_ptr<KvBlock> block;
    Pos begin = 0;
    Pos end = 0;
    std::vector<std::byte> from_file;  // the data, if the block is not in memory
    std::span<const std::byte> data() const {
      return block->bytes.empty() ? std::span<const std::byte>(from_file) : block->bytes;
    }
  };

  /// The length that a sequence id has in the backend by the cache's account, for the invariants.
  struct ExpectedLength {
    SeqId seq = kNoSeq;
    Pos length = 0;
  };

  virtual ~PrefixCache() = default;

  /// How much of `tokens` a sequence of this namespace could begin with. Changes nothing.
  virtual Match match(CacheNamespace space, std::span<const TokenId> tokens) const = 0;

  /// Gives the idle id `seq` the first tokens.size() positions, all of them held according to
  /// match(). Without a namespace the sequence is private: it shares nothing, and nothing of it
  /// stays cached. Positions from `waited_from` on were computed by other requests while this one
  /// waited for them.
  virtual void attach(SeqId seq, std::optional<CacheNamespace> space,
                      std::span<const TokenId> tokens, Pos waited_from, std::vector<KvOp>& ops) = 0;

  /// The sequence holds the cells of all of `tokens`: others may share them from now on.
  /// `at_boundary`: they are likely to, up to here: a prompt ends, or prompts have diverged here.
  virtual void publish(SeqId seq, std::span<const TokenId> tokens, bool at_boundary,
                       std::vector<KvOp>& ops) = 0;

  /// Lets a sequence that holds [0, begin) share what other sequences have published of `tokens`
  /// since. Returns its new length.
  virtual Pos advance(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) = 0;

  /// Cells that loading the next piece takes, which may be more than it has tokens; 0: there is
  /// none.
  virtual std::int32_t n_cells_to_restore(SeqId seq, std::span<const TokenId> tokens) const = 0;

  /// The piece of `tokens` after the sequence's end, if it is in a lower tier and can be read.
  /// Valid until the next call of any other method.
  virtual std::optional<Restore> next_restore(SeqId seq, std::span<const TokenId> tokens) = 0;

  /// The piece was loaded into the sequence's cells, and publish() follows; or it could not be
  /// loaded, and is dropped.
  virtual void restored(SeqId seq, const Restore& piece, bool loaded) = 0;

  /// The sequence ends or is preempted; the id is idle again. The part of `tokens` that it holds
  /// stays cached.
  virtual void release(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) = 0;

  /// The backend lost the sequence's cells, the id stays in use.
  virtual void drop(SeqId seq) = 0;

  /// Evicts until n cells are free. Returns false if running sequences need too many.
  virtual bool make_room(std::int32_t n, std::vector<KvOp>& ops) = 0;

  /// Accounts for the saved data after the operations were applied.
  virtual void settle() = 0;

  /// Removes everything that no running sequence holds, in every tier, and all pins.
  virtual void clear(std::vector<KvOp>& ops) = 0;

  /// The backend was cleared: forgets all sequences, the attached ones included.
  virtual void forget_all() = 0;

  /// Evicts [0, tokens.size()) last, whenever it is cached, until `expires_ns` (0: never). Replaces
  /// the pin of this name if there is one.
  void pin(const std::string& name, CacheNamespace space, std::vector<TokenId> tokens,
           std::int64_t expires_ns) {
    pins_.pin(name, {space, std::move(tokens), expires_ns});
  }
  /// Returns whether there was such a pin.
  bool unpin(const std::string& name) { return pins_.unpin(name); }
  void expire_pins(std::int64_t now_ns) { pins_.expire(now_ns); }

  /// Writes a piece of the cached data that is not yet on disk there, if there is a disk tier, when
  /// the operations have been applied and settle() is called. Returns false when nothing is left.
  virtual bool flush_next(std::vector<KvOp>& ops) = 0;

  virtual std::int32_t n_cells_used() const = 0;    // distinct
  virtual std::int32_t n_cells_needed() const = 0;  // of them, those of running sequences
  virtual void fill(CacheMetrics& metrics) const = 0;
  virtual std::vector<ExpectedLength> expected_lengths() const = 0;
  /// One sentence per broken rule of the cache's own state.
  virtual std::vector<std::string> violations() const = 0;

 protected:
  PinnedPrefixes pins_;
};

}  // namespace llamaherd

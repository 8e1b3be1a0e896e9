#include "cache/snapshot_cache.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "common/common_prefix.h"

namespace llamaherd {
namespace {

// Boundaries closer to the last one do not get a snapshot.
constexpr Pos kMinPiece = 16;

}  // namespace

SnapshotCache::SnapshotCache(const Options& options)
    : options_(options),
      sequences_(options.n_seqs),
      holders_(options.n_holders, options.first_holder),
      model_(options.n_cells) {}

/// Makes the sequence's own cells a range that snapshots can share.
void SnapshotCache::share_own_cells(Sequence& sequence) {
  const Pos n_own = sequence.length - sequence.n_shared;
  if (n_own == 0) return;
  sequence.ranges.push_back(std::make_shared<CellRange>(n_own, n_used_));
  sequence.n_shared = sequence.length;
}

void SnapshotCache::drop_cells(Sequence& sequence) {
  n_used_ -= sequence.length - sequence.n_shared;
  sequence.ranges.clear();
  sequence.length = sequence.n_shared = 0;
}

SnapshotCache::Snapshots::iterator SnapshotCache::find_same(CacheNamespace space,
                                                            std::span<const TokenId> tokens) {
  return std::ranges::find_if(snapshots_, [&](const Snapshot& s) {
    return s.space == space && std::ranges::equal(s.tokens, tokens);
  });
}

const SnapshotCache::Snapshot* SnapshotCache::find(CacheNamespace space,
                                                   std::span<const TokenId> tokens) const {
  const Snapshot* best = nullptr;
  for (const Snapshot& s : snapshots_) {
    if (s.space != space || s.tokens.size() > tokens.size()) continue;
    if (best != nullptr && s.length() <= best->length()) continue;
    if (std::ranges::equal(s.tokens, tokens.first(s.tokens.size()))) best = &s;
  }
  return best;
}

PrefixCache::Match SnapshotCache::match(CacheNamespace space,
                                        std::span<const TokenId> tokens) const {
  Match match;
  if (const Snapshot* s = find(space, tokens)) match.n_held = s->length();
  match.n_restorable = match.n_held;
  match.n_newly_pinned = match.n_held;
  for (const Snapshot& s : snapshots_) {
    if (s.space == space)
      match.divergence_pos = std::max(match.divergence_pos, common_length(s.tokens, tokens));
  }
  if (match.divergence_pos < match.n_held + kMinPiece) match.divergence_pos = 0;
  return match;
}

void SnapshotCache::fork(const Snapshot& from, SeqId seq, std::vector<KvOp>& ops) {
  ops.push_back({KvOp::Kind::kCopy, from.holder, 0, -1, seq});
  sequences_[seq].length = sequences_[seq].n_shared = from.length();
  sequences_[seq].ranges = from.ranges;
}

void SnapshotCache::attach(SeqId seq, std::optional<CacheNamespace> space,
                           std::span<const TokenId> tokens, Pos waited_from,
                           std::vector<KvOp>& ops) {
  Sequence& sequence = sequences_[seq];
  if (sequence.in_use) throw std::logic_error("SnapshotCache::attach: sequence is in use");
  sequence = {};
  sequence.in_use = true;
  sequence.space = space;
  if (!space) return;
  if (tokens.empty()) return;
  const auto it = find_same(*space, tokens);
  if (it == snapshots_.end()) {
    throw std::logic_error("SnapshotCache::attach to tokens without a snapshot");
  }
  model_.touch(it->usage, it->length());
  fork(*it, seq, ops);
  const Pos n_waited = std::max(0, it->length() - waited_from);
  metrics_.n_from_in_flight += n_waited;
  (it->maker != kNoSeq ? metrics_.n_from_running : metrics_.n_from_finished) +=
      it->length() - n_waited;
}

void SnapshotCache::publish(SeqId seq, std::span<const TokenId> tokens, bool at_boundary,
                            std::vector<KvOp>& ops) {
  Sequence& sequence = sequences_[seq];
  const auto length = static_cast<Pos>(tokens.size());
  const Pos n_new = length - sequence.length;
  n_used_ += n_new;
  sequence.length = length;
  model_.advance(n_new);
  const bool is_chunk_end = n_new > 1;
  if (!sequence.space || (!at_boundary && !is_chunk_end)) return;
  if (sequence.last_chunk != nullptr && sequence.last_chunk->usage.n_uses == 1) {
    Snapshot* replaced = std::exchange(sequence.last_chunk, nullptr);
    evict(replaced, EvictionReason::kReplaced, ops);
  }
  Snapshot* snapshot = take(seq, tokens, ops);
  sequence.last_chunk = at_boundary ? nullptr : snapshot;
}

/// Takes a snapshot of the sequence, which holds `tokens`. Null if there is one already or no
/// sequence id for it.
SnapshotCache::Snapshot* SnapshotCache::take(SeqId seq, std::span<const TokenId> tokens,
                                             std::vector<KvOp>& ops) {
  Sequence& sequence = sequences_[seq];
  const auto same = find_same(*sequence.space, tokens);
  if (same != snapshots_.end()) {
    model_.touch(same->usage, same->length());
    return nullptr;
  }
  const SeqId holder = acquire_holder(ops);
  if (holder == kNoSeq) return nullptr;
  Snapshot& s = snapshots_.emplace_back();
  s.holder = holder;
  s.space = *sequence.space;
  s.tokens.assign(tokens.begin(), tokens.end());
  share_own_cells(sequence);
  s.ranges = sequence.ranges;
  s.maker = seq;
  model_.touch(s.usage, s.length());
  ops.push_back({KvOp::Kind::kCopy, seq, 0, -1, holder});
  return &s;
}

/// A sequence whose cells were lost may continue from a snapshot.
Pos SnapshotCache::advance(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) {
  Sequence& sequence = sequences_[seq];
  if (sequence.length == 0 && sequence.space) {
    if (const Snapshot* s = find(*sequence.space, tokens)) fork(*s, seq, ops);
  }
  return sequence.length;
}

void SnapshotCache::release(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) {
  Sequence& sequence = sequences_[seq];
  if (!sequence.in_use) throw std::logic_error("SnapshotCache::release of an idle sequence");
  if (sequence.space && sequence.length > 0) take(seq, tokens.first(sequence.length), ops);
  for (Snapshot& s : snapshots_) {
    if (s.maker == seq) s.maker = kNoSeq;
  }
  ops.push_back({KvOp::Kind::kRemove, seq, 0, -1});
  drop_cells(sequence);
  sequence = {};
}

void SnapshotCache::drop(SeqId seq) { drop_cells(sequences_[seq]); }

SeqId SnapshotCache::acquire_holder(std::vector<KvOp>& ops) {
  if (holders_.n_free() == 0) {
    Snapshot* s = victim();
    if (s == nullptr) return kNoSeq;
    evict(s, EvictionReason::kHolders, ops);
  }
  return holders_.acquire();
}

bool SnapshotCache::pinned(const Snapshot& s) const {
  return std::ranges::any_of(pins_.all(), [&s](const auto& item) {
    const PinnedPrefixes::Pin& pin = item.second;
    return pin.space == s.space && std::ranges::equal(pin.tokens, s.tokens);
  });
}

SnapshotCache::Snapshot* SnapshotCache::victim() {
  if (snapshots_.empty()) return nullptr;
  return &*std::ranges::min_element(
      snapshots_, {}, [this](const Snapshot& s) { return std::pair(pinned(s), s.usage.score); });
}

void SnapshotCache::evict(Snapshot* snapshot, EvictionReason reason, std::vector<KvOp>& ops) {
  metrics_.count_evicted(reason, snapshot->length());
  for (Sequence& sequence : sequences_) {
    if (sequence.last_chunk == snapshot) sequence.last_chunk = nullptr;
  }
  ops.push_back({KvOp::Kind::kRemove, snapshot->holder, 0, -1});
  holders_.release(snapshot->holder);
  snapshots_.remove_if([snapshot](const Snapshot& s) { return &s == snapshot; });
}

bool SnapshotCache::make_room(std::int32_t n, std::vector<KvOp>& ops) {
  while (options_.n_cells - n_cells_used() < n) {
    Snapshot* s = victim();
    if (s == nullptr) return false;
    evict(s, EvictionReason::kCells, ops);
  }
  return true;
}

void SnapshotCache::clear(std::vector<KvOp>& ops) {
  while (!snapshots_.empty()) {
    evict(&snapshots_.front(), EvictionReason::kClear, ops);
  }
  pins_.clear();
}

void SnapshotCache::forget_all() {
  snapshots_.clear();
  for (Sequence& sequence : sequences_) {
    drop_cells(sequence);
    sequence = {};
  }
  holders_ = SequenceIdPool(options_.n_holders, options_.first_holder);
}

std::int32_t SnapshotCache::n_cells_needed() const {
  std::int32_t n = 0;
  for (const Sequence& sequence : sequences_) n += sequence.length;
  return n;
}

void SnapshotCache::fill(CacheMetrics& metrics) const {
  metrics = metrics_;
  metrics.n_holders = options_.n_holders;
  metrics.n_holders_used = static_cast<std::int32_t>(snapshots_.size());
  metrics.n_pins = pins_.size();
  metrics.n_nodes = static_cast<std::int32_t>(snapshots_.size());
  metrics.n_cells_reclaimable = std::max(0, n_cells_used() - n_cells_needed());
}

std::vector<PrefixCache::ExpectedLength> SnapshotCache::expected_lengths() const {
  std::vector<ExpectedLength> expected_lengths;
  for (SeqId seq = 0; seq < options_.n_seqs; ++seq)
    expected_lengths.push_back({seq, sequences_[seq].length});
  for (SeqId holder = options_.first_holder; holder < options_.first_holder + options_.n_holders;
       ++holder) {
    if (!holders_.in_use(holder)) expected_lengths.push_back({holder, 0});
  }
  for (const Snapshot& s : snapshots_) expected_lengths.push_back({s.holder, s.length()});
  return expected_lengths;
}

std::vector<std::string> SnapshotCache::violations() const {
  std::vector<std::string> found;
  const std::int32_t n_holders_used = options_.n_holders - holders_.n_free();
  if (static_cast<std::size_t>(n_holders_used) != snapshots_.size()) {
    found.push_back("snapshots vs holders: " + std::to_string(snapshots_.size()) +
                    " != " + std::to_string(n_holders_used));
  }
  const auto check = [&found](const SharedRanges& ranges, Pos length, const char* what) {
    std::int64_t n = 0;
    for (const auto& range : ranges) n += range->n_cells();
    if (n != length) {
      found.push_back(std::string(what) + " of length " + std::to_string(length) + " holds " +
                      std::to_string(n) + " cells");
    }
  };
  for (const Sequence& sequence : sequences_) {
    check(sequence.ranges, sequence.n_shared, "a sequence");
  }
  for (const Snapshot& s : snapshots_) check(s.ranges, s.length(), "a snapshot");
  return found;
}

}  // namespace llamaherd

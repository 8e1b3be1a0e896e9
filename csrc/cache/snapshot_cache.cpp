#include "cache/snapshot_cache.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "common/common_prefix.h"

namespace llamaherd {
namespace {

// A boundary less far from the last one is not worth an id.
constexpr Pos kMinPiece = 16;

}  // namespace

SnapshotCache::SnapshotCache(const Options& options)
    : options_(options),
      live_(options.n_seqs),
      holders_(options.n_holders, options.first_holder),
      model_(options.n_cells) {}

/// Makes what a sequence has added by itself a piece that snapshots can share.
void SnapshotCache::share_cells(Live& live) {
  if (live.length == live.n_shared) return;
  const auto count_out = [used = n_used_](const std::int32_t* n) {
    *used -= *n;
    delete n;
  };
  live.cells.emplace_back(new std::int32_t(live.length - live.n_shared), count_out);
  live.n_shared = live.length;
}

void SnapshotCache::drop_cells(Live& live) {
  *n_used_ -= live.length - live.n_shared;
  live.cells.clear();
  live.length = live.n_shared = 0;
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
  live_[seq].length = live_[seq].n_shared = from.length();
  live_[seq].cells = from.cells;
}

void SnapshotCache::attach(SeqId seq, std::optional<CacheNamespace> space,
                           std::span<const TokenId> tokens, Pos waited_from,
                           std::vector<KvOp>& ops) {
  Live& live = live_[seq];
  if (live.in_use) throw std::logic_error("SnapshotCache::attach: sequence is in use");
  live = {};
  live.in_use = true;
  live.space = space;
  if (!space) return;
  if (tokens.empty()) return;
  const auto it = find_same(*space, tokens);
  if (it == snapshots_.end()) throw std::logic_error("SnapshotCache::attach to what is not held");
  model_.touch(it->usage, it->length());
  fork(*it, seq, ops);
  const Pos n_waited = std::max(0, it->length() - waited_from);
  metrics_.n_from_in_flight += n_waited;
  (it->maker != kNoSeq ? metrics_.n_from_running : metrics_.n_from_finished) +=
      it->length() - n_waited;
}

void SnapshotCache::publish(SeqId seq, std::span<const TokenId> tokens, bool at_boundary,
                            std::vector<KvOp>& ops) {
  Live& live = live_[seq];
  const auto length = static_cast<Pos>(tokens.size());
  const Pos n_new = length - live.length;
  *n_used_ += n_new;
  live.length = length;
  model_.advance(n_new);
  const bool is_chunk_end = n_new > 1;
  if (!live.space || (!at_boundary && !is_chunk_end)) return;
  if (live.last_chunk != nullptr && live.last_chunk->usage.n_uses == 1) {
    Snapshot* replaced = std::exchange(live.last_chunk, nullptr);
    evict(replaced, EvictionReason::kReplaced, ops);
  }
  Snapshot* snapshot = take(seq, tokens, ops);
  live.last_chunk = at_boundary ? nullptr : snapshot;
}

/// Keeps the sequence as it is now under an id of its own, if there is one to have.
SnapshotCache::Snapshot* SnapshotCache::take(SeqId seq, std::span<const TokenId> tokens,
                                             std::vector<KvOp>& ops) {
  Live& live = live_[seq];
  const auto same = find_same(*live.space, tokens);
  if (same != snapshots_.end()) {
    model_.touch(same->usage, same->length());
    return nullptr;
  }
  const SeqId holder = acquire_holder(ops);
  if (holder == kNoSeq) return nullptr;
  Snapshot& s = snapshots_.emplace_back();
  s.holder = holder;
  s.space = *live.space;
  s.tokens.assign(tokens.begin(), tokens.end());
  share_cells(live);
  s.cells = live.cells;
  s.maker = seq;
  model_.touch(s.usage, s.length());
  ops.push_back({KvOp::Kind::kCopy, seq, 0, -1, holder});
  return &s;
}

/// A sequence that was dropped may go on from a snapshot.
Pos SnapshotCache::advance(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) {
  Live& live = live_[seq];
  if (live.length == 0 && live.space) {
    if (const Snapshot* s = find(*live.space, tokens)) fork(*s, seq, ops);
  }
  return live.length;
}

void SnapshotCache::release(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) {
  Live& live = live_[seq];
  if (!live.in_use) throw std::logic_error("SnapshotCache::release of an idle sequence");
  if (live.space && live.length > 0) take(seq, tokens.first(live.length), ops);
  for (Snapshot& s : snapshots_) {
    if (s.maker == seq) s.maker = kNoSeq;
  }
  ops.push_back({KvOp::Kind::kRemove, seq, 0, -1});
  drop_cells(live);
  live = {};
}

void SnapshotCache::drop(SeqId seq) { drop_cells(live_[seq]); }

SeqId SnapshotCache::acquire_holder(std::vector<KvOp>& ops) {
  if (holders_.n_free() == 0) {
    Snapshot* s = victim();
    if (s == nullptr) return kNoSeq;
    evict(s, EvictionReason::kHolders, ops);
  }
  return holders_.acquire();
}

bool SnapshotCache::pinned(const Snapshot& s) const {
  return std::ranges::any_of(pins_, [&s](const auto& item) {
    const Pin& pin = item.second;
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
  for (Live& live : live_) {
    if (live.last_chunk == snapshot) live.last_chunk = nullptr;
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
  for (Live& live : live_) {
    drop_cells(live);
    live = {};
  }
  holders_ = SequenceIdPool(options_.n_holders, options_.first_holder);
}

std::int32_t SnapshotCache::n_cells_needed() const {
  std::int32_t n = 0;
  for (const Live& live : live_) n += live.length;
  return n;
}

void SnapshotCache::fill(CacheMetrics& metrics) const {
  metrics = metrics_;
  metrics.n_holders = options_.n_holders;
  metrics.n_holders_used = static_cast<std::int32_t>(snapshots_.size());
  metrics.n_pins = static_cast<std::int32_t>(pins_.size());
  metrics.n_nodes = static_cast<std::int32_t>(snapshots_.size());
  metrics.n_cells_reclaimable = std::max(0, n_cells_used() - n_cells_needed());
}

std::vector<PrefixCache::ExpectedLength> SnapshotCache::expected_lengths() const {
  std::vector<ExpectedLength> expected_lengths;
  for (SeqId seq = 0; seq < options_.n_seqs; ++seq)
    expected_lengths.push_back({seq, live_[seq].length});
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
  const auto check = [&found](const std::vector<Cells>& cells, Pos length, const char* what) {
    std::int64_t n = 0;
    for (const Cells& piece : cells) n += *piece;
    if (n != length) {
      found.push_back(std::string(what) + " of length " + std::to_string(length) + " holds " +
                      std::to_string(n) + " cells");
    }
  };
  for (const Live& live : live_) check(live.cells, live.n_shared, "a sequence");
  for (const Snapshot& s : snapshots_) check(s.cells, s.length(), "a snapshot");
  return found;
}

}  // namespace llamaherd

#include "snapshot_cache.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace llamaherd {
namespace {

// A boundary less far from the last one is not worth an id.
constexpr Pos kMinPiece = 16;

Pos common_length(std::span<const TokenId> a, std::span<const TokenId> b) {
  const std::size_t n = std::min(a.size(), b.size());
  return static_cast<Pos>(std::mismatch(a.begin(), a.begin() + n, b.begin()).first - a.begin());
}

}  // namespace

SnapshotCache::SnapshotCache(const Options& options)
    : options_(options), live_(options.n_seqs), model_(options.n_cells) {
  for (SeqId i = options.n_tags; i > 0; --i) free_tags_.push_back(options.first_tag + i - 1);
}

SnapshotCache::Cells SnapshotCache::new_cells(std::int32_t n) {
  *n_used_ += n;
  return {new std::int32_t(n), [used = n_used_](const std::int32_t* cells) {
            *used -= *cells;
            delete cells;
          }};
}

const SnapshotCache::Snapshot* SnapshotCache::find(CacheSpace space,
                                                   std::span<const TokenId> tokens) const {
  const Snapshot* best = nullptr;
  for (const Snapshot& s : snapshots_) {
    if (s.space != space || s.tokens.size() > tokens.size()) continue;
    if (best != nullptr && s.length() <= best->length()) continue;
    if (std::ranges::equal(s.tokens, tokens.first(s.tokens.size()))) best = &s;
  }
  return best;
}

PrefixCache::Match SnapshotCache::match(CacheSpace space, std::span<const TokenId> tokens) const {
  Match match;
  if (const Snapshot* s = find(space, tokens)) match.n_held = s->length();
  match.n_stored = match.n_held;
  match.n_newly_needed = match.n_held;
  for (const Snapshot& s : snapshots_) {
    if (s.space == space) match.n_seen = std::max(match.n_seen, common_length(s.tokens, tokens));
  }
  if (match.n_seen < match.n_held + kMinPiece) match.n_seen = 0;
  return match;
}

void SnapshotCache::fork(const Snapshot& from, SeqId seq, std::vector<KvOp>& ops) {
  ops.push_back({KvOp::Kind::kCopy, from.tag, 0, -1, seq});
  live_[seq].length = from.length();
  live_[seq].cells = from.cells;
}

void SnapshotCache::attach(SeqId seq, std::optional<CacheSpace> space,
                           std::span<const TokenId> tokens, Pos waited_from,
                           std::vector<KvOp>& ops) {
  Live& live = live_[seq];
  if (live.in_use) throw std::logic_error("SnapshotCache::attach: sequence is in use");
  live = {};
  live.in_use = true;
  live.space = space;
  if (!space) return;
  if (tokens.empty()) return;
  const auto it = std::ranges::find_if(snapshots_, [&](const Snapshot& s) {
    return s.space == *space && std::ranges::equal(s.tokens, tokens);
  });
  if (it == snapshots_.end()) throw std::logic_error("SnapshotCache::attach to what is not held");
  model_.touch(it->usage, it->length());
  fork(*it, seq, ops);
  const Pos n_waited = std::max(0, it->length() - waited_from);
  metrics_.n_from_in_flight += n_waited;
  (it->of_running ? metrics_.n_from_running : metrics_.n_from_finished) += it->length() - n_waited;
}

void SnapshotCache::publish(SeqId seq, std::span<const TokenId> tokens, bool at_boundary,
                            std::vector<KvOp>& ops) {
  Live& live = live_[seq];
  const auto length = static_cast<Pos>(tokens.size());
  const Pos n_new = length - live.length;
  live.cells.push_back(new_cells(n_new));
  live.length = length;
  model_.advance(n_new);
  const bool is_chunk_end = n_new > 1;
  if (!live.space || (!at_boundary && !is_chunk_end)) return;
  if (live.last_chunk != nullptr && live.last_chunk->usage.n_uses == 1) {
    Snapshot* replaced = std::exchange(live.last_chunk, nullptr);
    evict(replaced, nullptr, ops);
  }
  Snapshot* snapshot = take(seq, tokens, ops);
  live.last_chunk = at_boundary ? nullptr : snapshot;
}

/// Keeps the sequence as it is now under an id of its own, if there is one to have.
SnapshotCache::Snapshot* SnapshotCache::take(SeqId seq, std::span<const TokenId> tokens,
                                             std::vector<KvOp>& ops) {
  Live& live = live_[seq];
  const auto same = std::ranges::find_if(snapshots_, [&](const Snapshot& s) {
    return s.space == *live.space && std::ranges::equal(s.tokens, tokens);
  });
  if (same != snapshots_.end()) {
    model_.touch(same->usage, same->length());
    return nullptr;
  }
  const SeqId tag = acquire_tag(ops);
  if (tag == kNoSeq) return nullptr;
  Snapshot& s = snapshots_.emplace_back();
  s.tag = tag;
  s.space = *live.space;
  s.tokens.assign(tokens.begin(), tokens.end());
  s.cells = live.cells;
  s.of_running = true;
  model_.touch(s.usage, s.length());
  live.made.push_back(&s);
  ops.push_back({KvOp::Kind::kCopy, seq, 0, -1, tag});
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
  for (Snapshot* s : live.made) s->of_running = false;
  ops.push_back({KvOp::Kind::kRemove, seq, 0, -1});
  live = {};
}

void SnapshotCache::drop(SeqId seq) {
  live_[seq].cells.clear();
  live_[seq].length = 0;
}

SeqId SnapshotCache::acquire_tag(std::vector<KvOp>& ops) {
  if (free_tags_.empty()) {
    Snapshot* s = victim();
    if (s == nullptr) return kNoSeq;
    evict(s, &CacheMetrics::n_evicted_for_tags, ops);
  }
  const SeqId tag = free_tags_.back();
  free_tags_.pop_back();
  return tag;
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

/// Without a reason: it is replaced by a better one.
void SnapshotCache::evict(Snapshot* snapshot, std::int64_t CacheMetrics::*reason,
                          std::vector<KvOp>& ops) {
  if (reason != nullptr) metrics_.*reason += snapshot->length();
  for (Live& live : live_) {
    std::erase(live.made, snapshot);
    if (live.last_chunk == snapshot) live.last_chunk = nullptr;
  }
  ops.push_back({KvOp::Kind::kRemove, snapshot->tag, 0, -1});
  free_tags_.push_back(snapshot->tag);
  snapshots_.remove_if([snapshot](const Snapshot& s) { return &s == snapshot; });
}

bool SnapshotCache::make_room(std::int32_t n, std::vector<KvOp>& ops) {
  while (options_.n_cells - n_cells_used() < n) {
    Snapshot* s = victim();
    if (s == nullptr) return false;
    evict(s, &CacheMetrics::n_evicted_for_cells, ops);
  }
  return true;
}

void SnapshotCache::clear(std::vector<KvOp>& ops) {
  while (!snapshots_.empty()) {
    evict(&snapshots_.front(), &CacheMetrics::n_evicted_by_clear, ops);
  }
  pins_.clear();
}

void SnapshotCache::forget_all() {
  snapshots_.clear();
  for (Live& live : live_) live = {};
  free_tags_.clear();
  for (SeqId i = options_.n_tags; i > 0; --i) free_tags_.push_back(options_.first_tag + i - 1);
}

void SnapshotCache::pin(const std::string& name, CacheSpace space, std::vector<TokenId> tokens,
                        std::int64_t expires_ns) {
  pins_[name] = {space, std::move(tokens), expires_ns};
}

void SnapshotCache::expire_pins(std::int64_t now_ns) {
  std::erase_if(pins_, [now_ns](const auto& pin) {
    return pin.second.expires_ns != 0 && pin.second.expires_ns <= now_ns;
  });
}

std::int32_t SnapshotCache::n_cells_needed() const {
  std::int32_t n = 0;
  for (const Live& live : live_) n += live.length;
  return n;
}

void SnapshotCache::fill(CacheMetrics& metrics) const {
  metrics = metrics_;
  metrics.n_tags = options_.n_tags;
  metrics.n_tags_used = static_cast<std::int32_t>(snapshots_.size());
  metrics.n_pins = static_cast<std::int32_t>(pins_.size());
  metrics.n_nodes = static_cast<std::int32_t>(snapshots_.size());
  metrics.n_cells_reclaimable = std::max(0, n_cells_used() - n_cells_needed());
}

std::vector<PrefixCache::Belief> SnapshotCache::beliefs() const {
  std::vector<Belief> beliefs;
  for (SeqId seq = 0; seq < options_.n_seqs; ++seq) beliefs.push_back({seq, live_[seq].length});
  for (const SeqId tag : free_tags_) beliefs.push_back({tag, 0});
  for (const Snapshot& s : snapshots_) beliefs.push_back({s.tag, s.length()});
  return beliefs;
}

std::vector<std::string> SnapshotCache::violations() const {
  std::vector<std::string> found;
  const std::size_t n_tags = free_tags_.size() + snapshots_.size();
  if (n_tags != static_cast<std::size_t>(options_.n_tags)) {
    found.push_back("tags used and free: " + std::to_string(n_tags) +
                    " != " + std::to_string(options_.n_tags));
  }
  const auto check = [&found](const std::vector<Cells>& cells, Pos length, const char* what) {
    std::int64_t n = 0;
    for (const Cells& piece : cells) n += *piece;
    if (n != length) {
      found.push_back(std::string(what) + " of length " + std::to_string(length) + " holds " +
                      std::to_string(n) + " cells");
    }
  };
  for (const Live& live : live_) check(live.cells, live.length, "a sequence");
  for (const Snapshot& s : snapshots_) check(s.cells, s.length(), "a snapshot");
  return found;
}

}  // namespace llamaherd

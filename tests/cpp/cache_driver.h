#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cache/prefix_cache_factory.h"
#include "fake_backend.h"

namespace llamaherd {

using Tokens = std::vector<TokenId>;

/// n tokens of a path that no other `first` begins.
inline Tokens run_of(TokenId first, std::int32_t n) {
  Tokens tokens(n);
  for (std::int32_t i = 0; i < n; ++i) tokens[i] = first + i % 7;
  if (n > 0) tokens[0] = first;
  return tokens;
}

inline Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "llamaherd_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::size_t n_files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }
  /// Flips the last byte of each file.
  void damage() const {
    for (const auto& file : std::filesystem::directory_iterator(path_)) {
      std::fstream stream(file.path(), std::ios::in | std::ios::out | std::ios::binary);
      stream.seekg(-1, std::ios::end);
      const char last = static_cast<char>(stream.get() ^ 1);
      stream.seekp(-1, std::ios::end);
      stream.put(last);
    }
  }

 private:
  std::filesystem::path path_;
};

/// A cache and a memory, kept together as an engine would; each call checks that they agree.
class CacheDriver {
 public:
  static constexpr std::int64_t kTokenBytes = 8;  // of FakeBackend::save()

  explicit CacheDriver(const BackendInfo& info, const CacheOptions& options = {})
      : backend(with(info)),
        max_ram_bytes_(options.max_ram_bytes),
        runs_(info.n_seqs),
        cache(make_cache(backend.info(), options)) {}

  static BackendInfo info(std::int32_t n_ctx, std::int32_t n_holders, std::int32_t n_seqs = 4) {
    BackendInfo info;
    info.n_vocab = 1 << 20;
    info.n_ctx = info.n_ctx_train = info.n_batch = n_ctx;
    info.n_seqs = n_seqs;
    info.n_holders = n_holders;
    info.kv_save_block = 32;
    return info;
  }

  /// A sequence with what is held of `tokens`, which it is to compute.
  SeqId start(std::optional<CacheNamespace> space, const Tokens& tokens) {
    const SeqId seq = free_seq();
    const auto match = space ? cache->match(*space, tokens) : PrefixCache::Match{};
    EXPECT_GE(match.n_restorable, match.n_held);
    EXPECT_LE(match.n_newly_pinned, match.n_held);
    cache->attach(seq, space, std::span(tokens).first(match.n_held), match.n_held, ops_);
    runs_[seq] = {true, tokens, match.n_held};
    apply();
    check();
    return seq;
  }

  /// Decodes the next n of its tokens, without telling the cache.
  void decode(SeqId seq, Pos n) {
    ASSERT_TRUE(cache->make_room(n, ops_));
    apply();
    Run& run = runs_[seq];
    const std::span<const TokenId> rows = std::span(run.tokens).subspan(run.length, n);
    std::vector<Pos> positions(n);
    for (Pos i = 0; i < n; ++i) positions[i] = run.length + i;
    const std::vector<SeqId> seqs(n, seq);
    const std::vector<std::uint8_t> wants_logits(n, 0);
    ASSERT_EQ(backend.decode({rows, positions, seqs, wants_logits}), DecodeStatus::kOk);
    run.length += n;
  }

  void publish(SeqId seq, bool at_boundary = false) {
    const Run& run = runs_[seq];
    cache->publish(seq, std::span(run.tokens).first(run.length), at_boundary, ops_);
    apply();
  }

  void compute(SeqId seq, Pos n, bool at_boundary = false) {
    decode(seq, n);
    if (::testing::Test::HasFatalFailure()) return;
    publish(seq, at_boundary);
    check();
  }

  /// As decoded tokens come.
  void extend(SeqId seq, const Tokens& tokens) {
    for (const TokenId token : tokens) {
      runs_[seq].tokens.push_back(token);
      compute(seq, 1);
    }
  }

  void advance(SeqId seq) {
    runs_[seq].length = cache->advance(seq, runs_[seq].tokens, ops_);
    apply();
    check();
  }

  /// Returns whether something was brought back.
  bool restore(SeqId seq) {
    Run& run = runs_[seq];
    // Before the piece is asked for: what makes room may move it, or forget it.
    const bool fits = cache->make_room(cache->n_cells_to_restore(seq, run.tokens), ops_);
    apply();
    if (!fits) return false;
    auto piece = cache->next_restore(seq, run.tokens);
    if (!piece) return false;
    const bool loaded = backend.load(seq, piece->begin, piece->end, piece->data());
    cache->restored(seq, *piece, loaded);
    if (loaded) run.length = piece->end;
    piece.reset();  // its bytes count for as long as it lives
    if (loaded) publish(seq);
    check();
    return loaded;
  }

  void finish(SeqId seq) {
    cache->release(seq, std::span(runs_[seq].tokens).first(runs_[seq].length), ops_);
    runs_[seq] = {};
    apply();
    check();
  }

  bool room(std::int32_t n) {
    const bool fits = cache->make_room(n, ops_);
    apply();
    check();
    return fits;
  }

  void clear() {
    cache->clear(ops_);
    apply();
    check();
  }

  void flush() {
    while (cache->flush_next(ops_)) apply();
  }

  /// As when a part of an untrimmable sequence should be undone.
  void drop(SeqId seq) {
    backend.remove(seq, 0, kToEnd);
    cache->drop(seq);
    runs_[seq].length = 0;
    check();
  }

  /// After the cache and the memory were made to forget all.
  void forget() {
    for (Run& run : runs_) run = {};
    check();
  }

  /// Computes a path and lets it go.
  void leave(CacheNamespace space, const Tokens& tokens) {
    const SeqId seq = start(space, tokens);
    while (restore(seq)) {
    }
    if (const Pos n = n_left(seq); n > 0) compute(seq, n, true);
    finish(seq);
  }

  Pos n_held(const Tokens& tokens, CacheNamespace space = 0) const {
    return cache->match(space, tokens).n_held;
  }
  Pos n_restorable(const Tokens& tokens, CacheNamespace space = 0) const {
    return cache->match(space, tokens).n_restorable;
  }
  CacheMetrics metrics() const {
    CacheMetrics m;
    cache->fill(m);
    return m;
  }

  bool in_use(SeqId seq) const { return runs_[seq].in_use; }
  Pos length(SeqId seq) const { return runs_[seq].length; }
  Pos n_left(SeqId seq) const { return static_cast<Pos>(runs_[seq].tokens.size()) - length(seq); }
  const Tokens& tokens(SeqId seq) const { return runs_[seq].tokens; }
  std::int64_t n_copies() const { return n_copies_; }

  void check() {
    EXPECT_EQ(cache->violations(), std::vector<std::string>{});
    for (const auto& [seq, length] : cache->expected_lengths()) {
      EXPECT_EQ(length, backend.length(seq)) << "sequence " << seq;
    }
    EXPECT_EQ(cache->n_cells_used(), backend.n_cells_used());
    EXPECT_LE(metrics().n_bytes_ram, max_ram_bytes_);
    EXPECT_EQ(backend.n_refused(), 0);
    for (SeqId seq = 0; seq < static_cast<SeqId>(runs_.size()); ++seq) {
      const Run& run = runs_[seq];
      ASSERT_EQ(backend.length(seq), run.length) << "sequence " << seq;
      std::vector<std::pair<Pos, TokenId>> cells(run.length);
      const auto bytes = backend.save(seq, 0, run.length);
      if (!bytes.empty()) std::memcpy(cells.data(), bytes.data(), bytes.size());
      for (Pos i = 0; i < run.length; ++i) {
        ASSERT_EQ(cells[i], std::pair(i, run.tokens[i])) << "sequence " << seq;
      }
    }
  }

 private:
  static FakeOptions with(const BackendInfo& info) {
    FakeOptions options;
    options.info = info;
    return options;
  }

  struct Run {
    bool in_use = false;
    Tokens tokens;
    Pos length = 0;
  };

  SeqId free_seq() const {
    const auto it = std::ranges::find(runs_, false, &Run::in_use);
    if (it == runs_.end()) throw std::logic_error("all sequences run");
    return static_cast<SeqId>(it - runs_.begin());
  }

  void apply() {
    for (const KvOp& op : std::exchange(ops_, {})) {
      if (op.kind == KvOp::Kind::kSave) {
        op.block->bytes = backend.save(op.seq, op.begin, op.end);
      } else if (op.kind == KvOp::Kind::kCopy) {
        backend.copy(op.seq, op.dst, op.begin, op.end);
        ++n_copies_;
      } else {
        EXPECT_TRUE(backend.remove(op.seq, op.begin, op.end));
      }
    }
    cache->settle();
  }

 public:
  FakeBackend backend;

 private:
  std::int64_t max_ram_bytes_;
  std::vector<Run> runs_;
  std::vector<KvOp> ops_;
  std::int64_t n_copies_ = 0;

 public:
  std::unique_ptr<PrefixCache> cache;
};

/// Paths that share beginnings: most continue a piece of an earlier one.
class PathSource {
 public:
  PathSource(std::mt19937& rng, Pos max_length) : rng_(rng), max_length_(max_length) {}

  Tokens next() {
    Tokens path;
    if (!earlier_.empty() && rng_() % 8) {
      path = earlier_[rng_() % earlier_.size()];
      if (rng_() % 3) path.resize(rng_() % (path.size() + 1));
    }
    const std::size_t n_more = rng_() % static_cast<std::size_t>(max_length_);
    for (std::size_t i = 0; i <= n_more && path.size() < static_cast<std::size_t>(max_length_);
         ++i) {
      path.push_back(static_cast<TokenId>(rng_() % 2));
    }
    earlier_.push_back(path);
    if (earlier_.size() > 12) earlier_.erase(earlier_.begin());
    return path;
  }

 private:
  std::mt19937& rng_;
  Pos max_length_;
  std::vector<Tokens> earlier_;
};

}  // namespace llamaherd

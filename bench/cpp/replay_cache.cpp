// Replays requests in the prefix cache alone: no model, no scheduler, one request at a time.
//
// stdin: one request per line: its length in tokens, then the ids of its 512-token blocks.
// Arguments: cells, holders, bytes of the second tier (1 per token). Prints numbers of tokens:
// requested, found in cells, found in the second tier.

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "cache/block_store.h"
#include "cache/radix_cache.h"

namespace {

using namespace llamaherd;

constexpr Pos kBlock = 512;

std::vector<TokenId> read_request(const std::string& line) {
  std::istringstream in(line);
  Pos n = 0;
  in >> n;
  std::vector<TokenId> tokens;
  tokens.reserve(n);
  for (TokenId block; in >> block;) {
    for (Pos i = 0; i < kBlock && static_cast<Pos>(tokens.size()) < n; ++i) {
      tokens.push_back(block * kBlock + i);
    }
  }
  return tokens;
}

class Replay {
 public:
  Replay(std::int32_t n_cells, std::int32_t n_holders, std::int64_t max_ram)
      : n_cells_(n_cells),
        cache_({1, n_cells, 1, n_holders, 512, {}},
               std::make_unique<BlockStore>(max_ram, nullptr)) {}

  void run(std::vector<TokenId> tokens) {
    n_tokens_ += static_cast<std::int64_t>(tokens.size());
    if (static_cast<std::int32_t>(tokens.size()) > n_cells_) tokens.resize(n_cells_);
    const std::span<const TokenId> all(tokens);
    const PrefixCache::Match match = cache_.match(0, all);
    cache_.attach(0, 0, all.first(match.n_held), match.n_held, ops_);
    Pos n = match.n_held;
    n_held_ += n;
    while (const auto piece = cache_.next_restore(0, all.first(match.n_restorable))) {
      if (!room(piece->block->end - piece->block->begin)) break;
      cache_.restored(0, *piece, true);
      cache_.publish(0, all.first(piece->end), false, ops_);
      n_restored_ += piece->end - n;
      n = piece->end;
    }
    if (room(static_cast<std::int32_t>(tokens.size()) - n)) cache_.publish(0, all, true, ops_);
    cache_.release(0, all, ops_);
    apply();
  }

  void print() const {
    std::printf("%lld %lld %lld\n", static_cast<long long>(n_tokens_),
                static_cast<long long>(n_held_), static_cast<long long>(n_restored_));
  }

 private:
  bool room(std::int32_t n) {
    const bool fits = cache_.make_room(n, ops_);
    apply();
    return fits;
  }

  void apply() {
    for (const KvOp& op : ops_) {
      if (op.kind == KvOp::Kind::kSave) op.block->bytes.resize(op.end - op.begin);
    }
    ops_.clear();
    cache_.settle();
  }

  std::int32_t n_cells_;
  RadixCache cache_;
  std::vector<KvOp> ops_;
  std::int64_t n_tokens_ = 0, n_held_ = 0, n_restored_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: replay_cache CELLS HOLDERS SECOND_TIER_BYTES < requests\n");
    return 2;
  }
  Replay replay(std::atoi(argv[1]), std::atoi(argv[2]), std::atoll(argv[3]));
  for (std::string line; std::getline(std::cin, line);) replay.run(read_request(line));
  replay.print();
}

#include "cache/block_store.h"

#include <algorithm>
#include <utility>

namespace llamaherd {

BlockStore::BlockStore(std::int64_t max_ram_bytes, std::unique_ptr<DiskTier> disk)
    : max_ram_bytes_(max_ram_bytes), disk_(std::move(disk)) {}

std::shared_ptr<KvBlock> BlockStore::make(Pos begin, Pos end) {
  const auto destroy = [ledger = ledger_](KvBlock* block) {
    ledger->n_ram_bytes -= static_cast<std::int64_t>(block->bytes.size());
    if (block->file != 0) ledger->dead_files.push_back(block->file);
    delete block;
  };
  return {new KvBlock{begin, end, {}, 0}, destroy};
}

std::shared_ptr<KvBlock> BlockStore::adopt(Pos begin, Pos end, std::uint64_t file) {
  auto block = make(begin, end);
  block->file = file;
  return block;
}

void BlockStore::count(const KvBlock& block) {
  ledger_->n_ram_bytes += static_cast<std::int64_t>(block.bytes.size());
}

void BlockStore::drop_bytes(KvBlock& block) {
  ledger_->n_ram_bytes -= static_cast<std::int64_t>(block.bytes.size());
  block.bytes = {};
}

bool BlockStore::fits_disk(std::int64_t n_bytes) const {
  // Of a file's header and tokens.
  constexpr std::int64_t kOverhead = 64 * 1024;
  return disk_->n_bytes() + n_bytes + kOverhead <= disk_->max_bytes();
}

bool BlockStore::write(KvBlock& block, CacheNamespace space, std::span<const TokenId> path) {
  if (block.file != 0 || !disk_) return block.file != 0;
  std::vector<std::uint64_t> evicted;  // not needed: DiskTier::read() refuses these
  const std::size_t n = std::min(path.size(), static_cast<std::size_t>(block.end));
  const auto file = disk_->write(space, path.first(n), block.begin, block.bytes, evicted);
  block.file = file.value_or(0);
  return file.has_value();
}

void BlockStore::reap() {
  for (const std::uint64_t file : std::exchange(ledger_->dead_files, {})) {
    if (disk_) disk_->remove(file);
  }
}

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/kv_block.h"
#include "cache/disk_tier.h"
#include "common/types.h"

namespace llamaherd {

/// The blocks of the tiers below the KV cache: counts their bytes in host memory and moves them to
/// files. When the last reference to a block is dropped, reap() removes its file; files whose
/// blocks are alive when the store is destroyed stay.
class BlockStore {
 public:
  /// `disk` may be null.
  BlockStore(std::int64_t max_ram_bytes, std::unique_ptr<DiskTier> disk);

  /// Whether there is any tier below the KV cache.
  bool enabled() const { return max_ram_bytes_ > 0 || disk_ != nullptr; }
  DiskTier* disk() { return disk_.get(); }

  std::shared_ptr<KvBlock> make(Pos begin, Pos end);
  /// A block whose data is in a file already.
  std::shared_ptr<KvBlock> adopt(Pos begin, Pos end, std::uint64_t file);

  /// The block's data was copied into host memory.
  void count(const KvBlock& block);
  /// Frees the block's data in host memory.
  void drop_bytes(KvBlock& block);
  bool over_ram_limit() const { return ledger_->n_ram_bytes > max_ram_bytes_; }

  /// Whether a file with n bytes of data fits within the disk tier's limit. There must be one.
  bool fits_disk(std::int64_t n_bytes) const;

  /// Writes the block's data, positions [block.begin, block.end) of `path`, to a file if it has
  /// none yet. Returns whether it has one now.
  bool write(KvBlock& block, CacheNamespace space, std::span<const TokenId> path);

  /// Removes the files of blocks that were destroyed.
  void reap();

  std::int64_t n_ram_bytes() const { return ledger_->n_ram_bytes; }
  std::int64_t n_disk_bytes() const { return disk_ ? disk_->n_bytes() : 0; }

 private:
  // Shared with the blocks, which may outlive the store.
  struct Ledger {
    std::int64_t n_ram_bytes = 0;
    std::vector<std::uint64_t> dead_files;
  };

  std::int64_t max_ram_bytes_;
  std::unique_ptr<DiskTier> disk_;
  std::shared_ptr<Ledger> ledger_ = std::make_shared<Ledger>();
};

}  // namespace llamaherd

#include "cache/prefix_cache_factory.h"

#include <utility>

#include "cache/radix_cache.h"
#include "cache/snapshot_cache.h"

namespace llamaherd {

std::unique_ptr<PrefixCache> make_cache(const BackendInfo& info, const CacheOptions& options) {
  const std::int32_t n_holders = options.enabled ? info.n_holders : 0;
  if (!info.partial_removal) {
    return std::make_unique<SnapshotCache>(
        SnapshotCache::Options{info.n_seqs, info.n_ctx, info.first_holder, n_holders});
  }
  std::unique_ptr<DiskTier> disk;
  if (options.enabled && !options.disk_folder.empty()) {
    disk = std::make_unique<DiskTier>(options.disk_folder, options.fingerprint,
                                      options.max_disk_bytes, options.warn);
  }
  auto store =
      std::make_unique<BlockStore>(options.enabled ? options.max_ram_bytes : 0, std::move(disk));
  return std::make_unique<RadixCache>(
      RadixCache::Options{info.n_seqs, info.n_ctx, info.first_holder, n_holders, info.kv_save_block,
                          options.costs},
      std::move(store));
}

}  // namespace llamaherd

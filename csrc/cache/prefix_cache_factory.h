#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "cache/prefix_cache.h"
#include "cost/cost_estimates.h"

namespace llamaherd {

struct CacheOptions {
  bool enabled = true;  // false: every request is private
  std::int64_t max_ram_bytes = 0;
  std::string disk_folder;  // empty: no disk tier
  std::int64_t max_disk_bytes = 0;
  std::string fingerprint;  // see DiskTier
  CostEstimates costs;
  std::function<void(const std::string&)> warn = [](const std::string&) {};
};

/// The cache for the backend's kind of memory. Throws InvalidRequestError if the disk
/// folder cannot be used.
std::unique_ptr<PrefixCache> make_cache(const BackendInfo& info, const CacheOptions& options);

}  // namespace llamaherd

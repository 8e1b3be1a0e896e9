#pragma once

#include <vector>

#include "backend/backend.h"
#include "cache/prefix_cache.h"

namespace llamaherd {

/// Executes the prefix cache's operations on the backend. Each list must be applied before the next
/// call of the cache.
class CacheOperations {
 public:
  CacheOperations(Backend& backend, PrefixCache& cache) : backend_(backend), cache_(cache) {}

  /// The list that methods of PrefixCache append to, for apply().
  std::vector<KvOp>& pending() { return pending_; }
  void apply() { apply(pending_); }

  /// Executes the operations in order and clears the list.
  void apply(std::vector<KvOp>& ops);

 private:
  void save(const KvOp& op);

  Backend& backend_;
  PrefixCache& cache_;
  std::vector<KvOp> pending_;
};

}  // namespace llamaherd

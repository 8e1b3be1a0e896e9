#include "engine/cache_operations.h"

#include <new>
#include <stdexcept>

namespace llamaherd {

void CacheOperations::apply(std::vector<KvOp>& ops) {
  for (const KvOp& op : ops) {
    if (op.kind == KvOp::Kind::kSave) {
      save(op);
    } else if (!backend_.apply(op)) {
      throw std::logic_error("a planned cache operation was refused");
    }
  }
  ops.clear();
  cache_.settle();
}

/// Without memory for it the block stays empty, and the cache finds it damaged.
void CacheOperations::save(const KvOp& op) {
  try {
    op.block->bytes = backend_.save(op.seq, op.begin, op.end);
  } catch (const std::bad_alloc&) {
    op.block->bytes.clear();
  }
}

}  // namespace llamaherd

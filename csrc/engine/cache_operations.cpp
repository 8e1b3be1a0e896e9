#include "engine/cache_operations.h"

#include <new>
#include <stdexcept>

namespace llamaherd {

void CacheOperations::apply(std::vector<KvOp>& ops) {
  for (const KvOp& op : ops) {
    switch (op.kind) {
      case KvOp::Kind::kRemove:
        if (!backend_.remove(op.seq, op.begin, op.end)) {
          throw std::logic_error("the backend rejected a removal that the cache planned");
        }
        break;
      case KvOp::Kind::kCopy:
        backend_.copy(op.seq, op.dst, op.begin, op.end);
        break;
      case KvOp::Kind::kSave:
        save(op);
        break;
    }
  }
  ops.clear();
  cache_.settle();
}

/// If memory for it is lacking, the block stays empty and the cache treats it as damaged.
void CacheOperations::save(const KvOp& op) {
  try {
    op.block->bytes = backend_.save(op.seq, op.begin, op.end);
  } catch (const std::bad_alloc&) {
    op.block->bytes.clear();
  }
}

}  // namespace llamaherd

#pragma once

#include <array>
#include <cstdint>

#include "kernels/common/cell_order.h"

struct ggml_backend_buffer;
struct ggml_tensor;

namespace llamaherd::kernels {

/// The orders of an engine's KV caches (a model with windows has two), as seen in the SET_ROWS
/// nodes that write K. A cache is known by the buffer that its layers lie in.
class CacheOrders {
 public:
  /// A SET_ROWS node is planned: makes room, if it may be a cache's.
  void plan(const ggml_tensor& set_rows);

  /// It is computed, in the graph of this number. A cache's layers write the same cells, so that
  /// the first says all. By one thread, while no other is at an attention node.
  void note(const ggml_tensor& set_rows, std::uint64_t run);

  /// Of the cache that k is a part of, whose first n_cells cells may be seen; null: not known.
  const CellOrder* of(const ggml_tensor& k, std::int64_t n_cells) const;

 private:
  struct Cache {
    const ggml_backend_buffer* buffer = nullptr;
    std::uint64_t run = 0;
    CellOrder order;
  };
  std::array<Cache, 4> caches_;
};

}  // namespace llamaherd::kernels

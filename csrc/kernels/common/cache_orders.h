#pragma once

#include <array>
#include <cstdint>

#include "kernels/common/cell_order.h"

struct ggml_backend_buffer;
struct ggml_tensor;

namespace llamaherd::kernels {

/// Write orders of an engine's KV caches (a model with sliding windows has two), observed at the
/// SET_ROWS nodes that write K. A cache is identified by the buffer of its layers.
class CacheOrders {
 public:
  /// Called when a SET_ROWS node is planned: allocates memory if the node may write a cache.
  void plan(const ggml_tensor& set_rows);

  /// Called when the node is computed in graph number `run`. All layers of a cache write the same
  /// cells, so only the first is recorded. Called by one thread, while no other computes an
  /// attention node.
  void note(const ggml_tensor& set_rows, std::uint64_t run);

  /// The order of the cache that contains k, whose first n_cells cells may be visible; null:
  /// unknown.
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

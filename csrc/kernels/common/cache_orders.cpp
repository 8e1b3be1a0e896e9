#include "kernels/common/cache_orders.h"

#include <algorithm>

#include "ggml.h"

namespace llamaherd::kernels {
namespace {

const ggml_backend_buffer* buffer_of(const ggml_tensor& t) {
  return t.view_src ? t.view_src->buffer : t.buffer;
}

/// Whether the node writes complete rows, one per cell. (Transposed V is written by value.)
bool writes_cells(const ggml_tensor& set_rows) {
  return set_rows.ne[0] > 1 && set_rows.ne[2] == 1 && set_rows.ne[3] == 1 &&
         set_rows.src[1]->type == GGML_TYPE_I64;
}

}  // namespace

void CacheOrders::plan(const ggml_tensor& set_rows) {
  const ggml_backend_buffer* buffer = buffer_of(set_rows);
  if (!writes_cells(set_rows) || !buffer) return;
  const auto is_it = [&](const Cache& cache) { return cache.buffer == buffer || !cache.buffer; };
  const auto cache = std::ranges::find_if(caches_, is_it);
  if (cache == caches_.end() || cache->buffer) return;
  if (cache->order.reserve(set_rows.ne[1])) cache->buffer = buffer;
}

void CacheOrders::note(const ggml_tensor& set_rows, std::uint64_t run) {
  const auto cache = std::ranges::find(caches_, buffer_of(set_rows), &Cache::buffer);
  if (cache == caches_.end() || !cache->buffer || cache->run == run) return;
  if (!writes_cells(set_rows) || set_rows.ne[1] != cache->order.n_cells()) return;
  cache->run = run;
  const ggml_tensor& cells = *set_rows.src[1];
  cache->order.write(static_cast<const std::int64_t*>(cells.data), cells.ne[0]);
}

const CellOrder* CacheOrders::of(const ggml_tensor& k, std::int64_t n_cells) const {
  const auto cache = std::ranges::find(caches_, buffer_of(k), &Cache::buffer);
  if (cache == caches_.end() || !cache->buffer || n_cells > cache->order.n_cells()) return nullptr;
  return &cache->order;
}

}  // namespace llamaherd::kernels

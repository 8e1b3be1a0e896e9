#include "kernels/attention/attention.h"

#include <algorithm>

#include "ggml-cpu-impl.h"
#include "kernels/attention/attention_op.h"
#include "kernels/attention/attention_scratch.h"
#include "kernels/attention/visible_blocks.h"
#include "kernels/common/kernel_table.h"
#include "kernels/common/pool_state.h"
#include "kernels/common/tensor_rows.h"

namespace llamaherd::kernels {
namespace {

// Queries per tile: enough to amortize reading a block, few enough to stay in the L1 cache.
constexpr std::int64_t kTileQueries = 48;
// Work items per thread, for load balancing.
constexpr std::int64_t kPiecesPerThread = 3;
// With this many rows per tile and tiles per thread, a work item covers all heads. With fewer it
// does not pay off: shared blocks are read once per tile.
constexpr std::int64_t kRowsForAllHeads = 4, kTilesPerThread = 2;
// Nodes with more query heads are left to ggml.
constexpr std::int64_t kMaxQueryHeads = 512;
constexpr std::size_t kMaxPartialsBytes = std::size_t{16} << 20;

bool is_readable(const ggml_tensor* t) {
  const bool has_type = (t->type == GGML_TYPE_F16 && t->ne[0] % 16 == 0) ||
                        (t->type == GGML_TYPE_Q8_0 && t->ne[0] % 32 == 0);
  return has_type && t->nb[0] == ggml_type_size(t->type) && t->ne[3] == 1 &&
         t->ne[0] <= kMaxHeadSize;
}

bool covered(const AttentionOp& a, const ggml_tensor& dst) {
  return best_kernels() && is_readable(a.k) && is_readable(a.v) && a.mask &&
         a.mask->type == GGML_TYPE_F16 && a.mask->nb[0] == sizeof(std::uint16_t) &&
         a.mask->ne[2] == 1 && a.mask->ne[3] == 1 && a.mask->ne[1] >= a.q->ne[1] &&
         a.q->type == GGML_TYPE_F32 && a.q->nb[0] == sizeof(float) && a.q->ne[3] == 1 &&
         a.k->ne[2] == a.v->ne[2] && a.k->ne[1] == a.v->ne[1] && a.q->ne[2] % a.k->ne[2] == 0 &&
         a.q->ne[2] <= kMaxQueryHeads && dst.type == GGML_TYPE_F32;
}

/// Division of a node's work. The same for all threads; does not affect results.
struct Division {
  std::int64_t n_rows, n_cells, n_heads;  // n_heads: K/V heads
  const CellOrder* order;
  int n_group, tile_rows;
  int piece_heads;        // a work item covers a tile and one head, or all heads
  std::int64_t n_ranges;  // ranges of blocks per tile and head; > 1 if there are few of those
  std::size_t partials_bytes, scratch_bytes;

  Division(const AttentionOp& a, const CacheOrders& orders, int n_threads)
      : n_rows(a.q->ne[1]),
        n_cells(a.k->ne[1]),
        n_heads(a.k->ne[2]),
        order(orders.of(*a.k, n_cells)),
        n_group(static_cast<int>(a.q->ne[2] / a.k->ne[2])) {
    const bool all_heads = n_rows >= kRowsForAllHeads * n_threads;
    piece_heads = static_cast<int>(all_heads ? n_heads : 1);
    const std::int64_t n_wanted = (all_heads ? kTilesPerThread : kPiecesPerThread) * n_threads;
    const std::int64_t even = (n_rows * n_heads / piece_heads + n_wanted - 1) / n_wanted;
    tile_rows = static_cast<int>(std::clamp<std::int64_t>(
        std::min(even, kTileQueries / n_group), all_heads ? kRowsForAllHeads : 1, kMaxTileRows));
    const int n_queries = tile_rows * n_group;
    const auto k_size = static_cast<int>(a.k->ne[0]), v_size = static_cast<int>(a.v->ne[0]);
    const VisibleBlocks blocks(nullptr, n_rows, n_cells, tile_rows, order);
    const std::int64_t n_pieces = blocks.n_tiles() * n_heads / piece_heads;
    partials_bytes = n_pieces * blocks.n_row_blocks() * n_queries * (2 + v_size) * sizeof(float);
    n_ranges = (n_wanted + n_pieces - 1) / n_pieces;
    const bool splits = !all_heads && n_threads > 1 && n_pieces < 2 * n_threads &&
                        n_pieces % n_threads != 0 && partials_bytes <= kMaxPartialsBytes;
    if (!splits) n_ranges = 1;
    if (n_ranges == 1) partials_bytes = 0;
    const std::byte* none = nullptr;
    scratch_bytes = lay_out(nullptr, piece_heads, n_queries, k_size, v_size).end - none;
  }

  std::size_t workspace_bytes(int n_threads) const {
    return partials_bytes + n_threads * scratch_bytes;
  }
  VisibleBlocks blocks(std::byte* memory) const {
    return {memory, n_rows, n_cells, tile_rows, order};
  }
};

/// One node, as computed by one thread.
class Attention {
 public:
  Attention(PoolState& state, const ggml_compute_params& params, ggml_tensor& dst,
            const Division& division)
      : a_(dst), dst_(dst), state_(state), params_(params), division_(division) {}

  void run() {
    WorkerState& memory = state_.memory(params_.ith);
    const VisibleBlocks blocks = visible_blocks(memory);
    const std::int64_t n =
        blocks.n_tiles() * division_.n_heads / division_.piece_heads * division_.n_ranges;
    std::atomic<std::int64_t>& next = state_.pieces(params_.ith);
    for (std::int64_t i = next.fetch_add(1); i < n; i = next.fetch_add(1)) compute(blocks, i);
    if (division_.n_ranges == 1) return;
    ggml_barrier(params_.threadpool);
    for (std::int64_t i = params_.ith; i < blocks.n_tiles() * division_.n_heads; i += params_.nth) {
      merge(blocks, i);
    }
  }

 private:
  /// The rows' visible blocks, reused from earlier nodes of this graph if available.
  VisibleBlocks visible_blocks(WorkerState& memory) {
    for (std::size_t i = 0; i < memory.masks.size(); ++i) {
      if (memory.masks[i] == a_.mask && memory.mask_tile_rows[i] == division_.tile_rows) {
        return division_.blocks(state_.visible[i].data());
      }
    }
    const std::size_t slot = memory.next_mask;
    memory.next_mask = (slot + 1) % memory.masks.size();
    memory.masks[slot] = a_.mask;
    memory.mask_tile_rows[slot] = division_.tile_rows;
    const VisibleBlocks blocks = division_.blocks(state_.visible[slot].data());
    for (std::int64_t tile = params_.ith; tile < blocks.n_tiles(); tile += params_.nth) {
      blocks.build(tile, *a_.mask, *best_kernels());
    }
    ggml_barrier(params_.threadpool);
    return blocks;
  }

  float* partials(const VisibleBlocks& blocks, std::int64_t tile_and_head) const {
    if (division_.n_ranges == 1) return nullptr;
    const std::int64_t n = blocks.n_row_blocks() * division_.tile_rows * division_.n_group;
    return reinterpret_cast<float*>(state_.attention.data()) +
           tile_and_head * n * (2 + a_.v->ne[0]);
  }

  void compute(const VisibleBlocks& blocks, std::int64_t piece) {
    const std::int64_t range = piece % division_.n_ranges;
    const std::int64_t tile_and_head = piece / division_.n_ranges;
    // Heads of one tile are consecutive, as their K and V are adjacent in memory.
    const std::int64_t n_head_pieces = division_.n_heads / division_.piece_heads;
    const std::int64_t head = tile_and_head % n_head_pieces * division_.piece_heads;
    const std::int64_t index = tile_and_head / n_head_pieces;
    const VisibleBlocks::Tile& tile = blocks.tile(index);
    const std::int64_t row = index * division_.tile_rows, q_head = head * division_.n_group;
    float slope[kMaxQueryHeads];
    for (int j = 0; j < division_.piece_heads * division_.n_group; ++j) {
      slope[j] = a_.slope(q_head + j);
    }
    const std::int64_t begin = tile.n_blocks * range / division_.n_ranges;
    const std::int64_t end = tile.n_blocks * (range + 1) / division_.n_ranges;
    const auto stride = [](const ggml_tensor& t, int dim) {
      return static_cast<std::int64_t>(t.nb[dim]);
    };
    best_kernels()->attend({
        .blocks = tile.blocks,
        .order = tile.order + begin,
        .n_blocks = end - begin,
        .n_rows = blocks.n_rows_of(index),
        .n_heads = division_.piece_heads,
        .n_group = division_.n_group,
        .k_size = static_cast<int>(a_.k->ne[0]),
        .v_size = static_cast<int>(a_.v->ne[0]),
        .k_is_q8 = a_.k->type == GGML_TYPE_Q8_0,
        .v_is_q8 = a_.v->type == GGML_TYPE_Q8_0,
        .k = at<std::byte>(*a_.k, 0, head),
        .v = at<std::byte>(*a_.v, 0, head),
        .k_stride = stride(*a_.k, 1),
        .v_stride = stride(*a_.v, 1),
        .k_head_stride = stride(*a_.k, 2),
        .v_head_stride = stride(*a_.v, 2),
        .q = at<float>(*a_.q, row, q_head),
        .out = at<float>(dst_, q_head, row),
        .q_stride = stride(*a_.q, 1),
        .q_head_stride = stride(*a_.q, 2),
        .out_stride = stride(dst_, 2),
        .out_head_stride = stride(dst_, 1),
        .scale = a_.scale,
        .softcap = a_.softcap,
        .mask = tile.biased ? at<std::uint16_t>(*a_.mask, row) : nullptr,
        .mask_stride = stride(*a_.mask, 1),
        .slope = slope,
        .sinks = sinks(head),
        .scratch = state_.attention.data() + division_.partials_bytes +
                   params_.ith * division_.scratch_bytes,
        .partials = partials(blocks, tile_and_head),
    });
  }

  const float* sinks(std::int64_t head) const {
    if (!a_.sinks) return nullptr;
    return static_cast<const float*>(a_.sinks->data) + head * division_.n_group;
  }

  void merge(const VisibleBlocks& blocks, std::int64_t tile_and_head) {
    const std::int64_t head = tile_and_head % division_.n_heads;
    const std::int64_t index = tile_and_head / division_.n_heads;
    const int n_group = division_.n_group;
    const int n_queries = blocks.n_rows_of(index) * n_group;
    const std::int64_t stride = 2 + a_.v->ne[0];
    for (int i = 0; i < n_queries; ++i) {
      const std::int64_t row = i / n_group, h = head * n_group + i % n_group;
      const std::int64_t n_visible = blocks.tile(index).n_visible[row];
      best_kernels()->merge_blocks({
          .partials = partials(blocks, tile_and_head) + i * stride,
          .stride = n_queries * stride,
          .n_blocks = (n_visible + kBlockCells - 1) / kBlockCells,
          .v_size = static_cast<int>(a_.v->ne[0]),
          .sink = a_.sinks ? sinks(head) + i % n_group : nullptr,
          .out = at<float>(dst_, h, index * division_.tile_rows + row),
      });
    }
  }

  const AttentionOp a_;
  ggml_tensor& dst_;
  PoolState& state_;
  const ggml_compute_params& params_;
  const Division division_;
};

}  // namespace

void plan_attention(PoolState& state, const ggml_tensor& dst, int n_threads) {
  const AttentionOp a(dst);
  if (!covered(a, dst)) return;
  const Division division(a, state.orders, n_threads);
  for (Workspace& visible : state.visible) visible.reserve(division.blocks(nullptr).bytes());
  state.attention.reserve(division.workspace_bytes(n_threads));
}

bool attend(PoolState& state, const ggml_compute_params& params, ggml_tensor& dst) {
  const AttentionOp a(dst);
  if (!covered(a, dst)) return false;
  // Null if memory could not be allocated while the graph was planned.
  const Division division(a, state.orders, params.nth);
  const std::size_t n_visible = std::min(state.visible[0].size(), state.visible[1].size());
  if (n_visible < division.blocks(nullptr).bytes()) return false;
  if (state.attention.size() < division.workspace_bytes(params.nth)) return false;
  Attention(state, params, dst, division).run();
  return true;
}

}  // namespace llamaherd::kernels

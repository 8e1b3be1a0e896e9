#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/common/cache_orders.h"
#include "kernels/common/kernel_mode.h"
#include "kernels/common/workspace.h"

struct ggml_tensor;
struct ggml_threadpool;

namespace llamaherd::kernels {

/// What rows of activations are made into before they are multiplied.
enum class RowForm : std::uint8_t { kPlain, kQuantized, kSplit };

/// What a worker remembers of the nodes before, in a graph that is being computed. All workers of a
/// pool compute the same nodes in the same order, so they remember the same without telling each
/// other. Tensors are only compared with those of the same run: a later graph may reuse addresses.
struct WorkerState {
  std::uint64_t run = 0;
  const ggml_tensor* activations = nullptr;   // prepared last
  RowForm form = RowForm::kPlain;             // as what
  std::array<const ggml_tensor*, 2> masks{};  // whose visible cells lie in the workspaces
  std::array<std::int64_t, 2> mask_tile_rows{};
  std::size_t next_mask = 0;
  std::uint64_t n_divided = 0;  // nodes whose pieces were handed out one by one
};

/// The kernels' state of one engine, found by its thread pool.
struct PoolState {
  static constexpr std::size_t kMaxThreads = 512;  // ggml's own limit

  std::atomic<ggml_threadpool*> pool = nullptr;
  Mode mode = Mode::kStock;
  BatchProfile calls = BatchProfile::kFewRows;
  std::uint64_t run = 0;  // a number for every graph; set while it is planned
  std::unique_ptr<std::array<WorkerState, kMaxThreads>> memories;
  Workspace activations;
  std::array<Workspace, 2> visible;
  Workspace attention;
  CacheOrders orders;
  // Which piece of a node is next; nodes use them in turn, so that one can be set back while the
  // other is in use.
  std::array<std::atomic<std::int64_t>, 2> next_piece{};

  /// The memory of worker `ith`, emptied if a new graph has begun.
  WorkerState& memory(int ith) {
    WorkerState& memory = (*memories)[ith];
    if (memory.run != run) memory = WorkerState{run};
    return memory;
  }

  /// A graph is being planned: nothing that was remembered holds in it.
  void forget_graph() {
    ++run;
    for (auto& piece : next_piece) piece.store(0, std::memory_order_relaxed);
  }

  /// Where a node's workers take the numbers of its pieces from. Each calls it once for a node that
  /// is divided so, and all are past a node before any is at the next.
  std::atomic<std::int64_t>& pieces(int ith) {
    const std::size_t turn = memory(ith).n_divided++ % 2;
    if (ith == 0) next_piece[1 - turn].store(0, std::memory_order_relaxed);
    return next_piece[turn];
  }
};

/// The state of the engine whose graphs are computed on `pool`; null if it is none of ours.
PoolState* state_of(const ggml_threadpool* pool);

}  // namespace llamaherd::kernels

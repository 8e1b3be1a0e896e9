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

/// Representation of activation rows for multiplication.
enum class RowForm : std::uint8_t { kPlain, kQuantized, kSplit };

/// A worker's cached results of earlier nodes of the current graph. All workers of a pool compute
/// the same nodes in the same order, so their states agree without synchronization. Tensors are
/// only compared within a run: a later graph may reuse addresses.
struct WorkerState {
  std::uint64_t run = 0;
  const ggml_tensor* activations = nullptr;   // last converted
  RowForm form = RowForm::kPlain;             // into this form
  std::array<const ggml_tensor*, 2> masks{};  // their visible cells are in the workspaces
  std::array<std::int64_t, 2> mask_tile_rows{};
  std::size_t next_mask = 0;
  std::uint64_t n_divided = 0;  // nodes with dynamically distributed work items
};

/// Kernel state of one engine, identified by its thread pool.
struct PoolState {
  static constexpr std::size_t kMaxThreads = 512;  // ggml's own limit

  std::atomic<ggml_threadpool*> pool = nullptr;
  Mode mode = Mode::kStock;
  BatchProfile calls = BatchProfile::kFewRows;
  std::uint64_t run = 0;  // number of the graph; set while it is planned
  std::unique_ptr<std::array<WorkerState, kMaxThreads>> memories;
  Workspace activations;
  std::array<Workspace, 2> visible;
  Workspace attention;
  CacheOrders orders;
  // Next work item of a node. Nodes alternate between the two, so that one can be reset while the
  // other is in use.
  std::array<std::atomic<std::int64_t>, 2> next_piece{};

  /// State of worker `ith`, reset if a new graph has begun.
  WorkerState& memory(int ith) {
    WorkerState& memory = (*memories)[ith];
    if (memory.run != run) memory = WorkerState{run};
    return memory;
  }

  /// Invalidates cached results when a graph is planned.
  void forget_graph() {
    ++run;
    for (auto& piece : next_piece) piece.store(0, std::memory_order_relaxed);
  }

  /// Counter of a node's work items. Each worker calls this once per node with dynamic
  /// distribution; all must have finished a node before any begins the next.
  std::atomic<std::int64_t>& pieces(int ith) {
    const std::size_t turn = memory(ith).n_divided++ % 2;
    if (ith == 0) next_piece[1 - turn].store(0, std::memory_order_relaxed);
    return next_piece[turn];
  }
};

/// State of the engine whose graphs are computed on `pool`; null for other pools.
PoolState* state_of(const ggml_threadpool* pool);

}  // namespace llamaherd::kernels

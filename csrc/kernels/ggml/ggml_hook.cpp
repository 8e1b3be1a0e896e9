#include "kernels/ggml/ggml_hook.h"

#include <mutex>

#include "common/error.h"
#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "kernels/attention/attention.h"
#include "kernels/common/kernel_table.h"
#include "kernels/common/pool_state.h"
#include "kernels/ggml/panel_buffer.h"
#include "kernels/ggml/reference_kernels.h"
#include "kernels/matmul/matmul.h"
#include "traits.h"

namespace llamaherd::kernels {
namespace {

// Lock-free: read by every worker for every node, written only when an engine starts or ends.
constexpr std::size_t kMaxPools = 64;
std::array<PoolState, kMaxPools> pools;

thread_local PoolState* planning = nullptr;

bool is_multiply(const ggml_tensor* op) {
  return op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID;
}

class Dispatch : public ggml::cpu::tensor_traits {
 public:
  /// Called for every node by the planning thread, before computation begins.
  bool work_size(int n_threads, const ggml_tensor* op, std::size_t& size) override {
    if (planning) planning->forget_graph();
    if (is_multiply(op)) {
      if (!in_panels(*op->src[0])) return false;
      size = plan_multiply(planning, *op, n_threads);
      return true;
    }
    if (!planning || planning->mode != Mode::kFast) return false;
    if (op->op == GGML_OP_SET_ROWS) {
      planning->orders.plan(*op);
    } else {
      plan_attention(*planning, *op, n_threads);
    }
    // Also false for supported nodes: ggml's kernel needs its work buffer if ours declines.
    return false;
  }

  bool compute_forward(ggml_compute_params* params, ggml_tensor* op) override {
    PoolState* state = state_of(params->threadpool);
    if (is_multiply(op) && in_panels(*op->src[0])) {
      multiply(state, *params, *op);
      return true;
    }
    if (!state || state->mode == Mode::kStock) return false;
    const bool reference = state->mode == Mode::kReference;
    switch (op->op) {
      case GGML_OP_MUL_MAT:
        return reference && reference_mul_mat(*params, *op);
      case GGML_OP_MUL_MAT_ID:
        return reference && reference_mul_mat_id(*params, *op);
      case GGML_OP_SET_ROWS:
        if (!reference && params->ith == 0) state->orders.note(*op, state->run);
        return false;
      default:
        return reference ? reference_flash_attn(*params, *op) : attend(*state, *params, *op);
    }
  }
};

class BufferType : public ggml::cpu::extra_buffer_type {
 public:
  /// Called by the model loader with an empty buffer, for weights that may be placed here, and
  /// later for nodes whose weights are here.
  bool supports_op(ggml_backend_dev_t, const ggml_tensor* op) override {
    if (!is_multiply(op) || !in_panels(*op->src[0])) return false;
    const bool loading = ggml_backend_buffer_get_size(op->src[0]->buffer) == 0;
    return (!loading || takes_weights()) && multiplies(*op);
  }

  ggml::cpu::tensor_traits* get_tensor_traits(const ggml_tensor* op) override {
    const bool is_ours =
        is_multiply(op) || op->op == GGML_OP_FLASH_ATTN_EXT || op->op == GGML_OP_SET_ROWS;
    return is_ours ? &dispatch_ : nullptr;
  }

 private:
  Dispatch dispatch_;
};

}  // namespace

PoolState* state_of(const ggml_threadpool* pool) {
  for (PoolState& state : pools) {
    if (state.pool.load(std::memory_order_relaxed) == pool) return &state;
  }
  return nullptr;
}

void install_hook() {
  static BufferType type;
  static std::once_flag once;
  std::call_once(once, [] {
    auto& list = ggml_backend_cpu_get_extra_buffer_types();
    panel_buffer_type()->context = &type;
    list.insert(list.begin(), panel_buffer_type());
  });
}

void use(ggml_threadpool* pool, Mode mode, BatchProfile calls) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  for (PoolState& state : pools) {
    if (state.pool.load(std::memory_order_relaxed)) continue;
    state.mode = mode;
    state.calls = calls;
    state.memories = std::make_unique<std::array<WorkerState, PoolState::kMaxThreads>>();
    state.pool.store(pool, std::memory_order_release);
    return;
  }
  throw ModelLoadError("one process can have at most 64 engines");
}

void forget(ggml_threadpool* pool) {
  PoolState* state = state_of(pool);
  if (!state) return;
  state->activations = {};
  state->visible = {};
  state->attention = {};
  state->orders = {};
  state->memories.reset();
  state->pool.store(nullptr, std::memory_order_release);
}

ComputeScope::ComputeScope(ggml_threadpool* pool) { planning = state_of(pool); }
ComputeScope::~ComputeScope() { planning = nullptr; }

std::string fast_kernels() {
  const KernelTable* kernels = best_kernels();
  return kernels ? kernels->name : "";
}

}  // namespace llamaherd::kernels

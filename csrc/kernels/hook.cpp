#include "hook.h"

#include <array>
#include <atomic>
#include <mutex>
#include <stdexcept>

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "reference.h"
#include "traits.h"

namespace llamaherd::kernels {
namespace {

// Read by every worker for every node, written when an engine comes or goes: no lock on the way.
constexpr std::size_t kMaxPools = 64;
std::array<std::atomic<ggml_threadpool*>, kMaxPools> reference_pools;

bool wants_reference(const ggml_threadpool* pool) {
  for (const auto& entry : reference_pools) {
    if (entry.load(std::memory_order_relaxed) == pool) return true;
  }
  return false;
}

class Dispatch : public ggml::cpu::tensor_traits {
 public:
  // False: ggml sizes the scratch buffer for its own kernel. Ours need no more.
  bool work_size(int, const ggml_tensor*, std::size_t&) override { return false; }

  bool compute_forward(ggml_compute_params* params, ggml_tensor* op) override {
    if (!wants_reference(params->threadpool)) return false;
    switch (op->op) {
      case GGML_OP_MUL_MAT:
        return reference_mul_mat(*params, *op);
      case GGML_OP_MUL_MAT_ID:
        return reference_mul_mat_id(*params, *op);
      case GGML_OP_FLASH_ATTN_EXT:
        return reference_flash_attn(*params, *op);
      default:
        return false;
    }
  }
};

class BufferType : public ggml::cpu::extra_buffer_type {
 public:
  bool supports_op(ggml_backend_dev_t, const ggml_tensor*) override { return false; }

  ggml::cpu::tensor_traits* get_tensor_traits(const ggml_tensor* op) override {
    const bool ours = op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID ||
                      op->op == GGML_OP_FLASH_ATTN_EXT;
    return ours ? &dispatch_ : nullptr;
  }

 private:
  Dispatch dispatch_;
};

// Offered to the model loader for weights like any entry of the list; it declines all of them
// above, so nothing is ever allocated in it.
ggml_backend_buffer_type_t hook_buffer_type() {
  static BufferType type;
  static ggml_backend_buffer_type buffer_type = {
      /*.iface =*/{
          /*.get_name       =*/[](ggml_backend_buffer_type_t) { return "llamaherd"; },
          /*.alloc_buffer   =*/
          [](ggml_backend_buffer_type_t, std::size_t) -> ggml_backend_buffer_t { return nullptr; },
          /*.get_alignment  =*/[](ggml_backend_buffer_type_t) -> std::size_t { return 64; },
          /*.get_max_size   =*/nullptr,
          /*.get_alloc_size =*/nullptr,
          /*.is_host        =*/nullptr,
      },
      /*.device  =*/ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
      /*.context =*/&type,
  };
  return &buffer_type;
}

}  // namespace

void install_hook() {
  static std::once_flag once;
  std::call_once(once, [] {
    auto& list = ggml_backend_cpu_get_extra_buffer_types();
    list.insert(list.begin(), hook_buffer_type());
  });
}

void use_reference(ggml_threadpool* pool) {
  for (auto& entry : reference_pools) {
    ggml_threadpool* empty = nullptr;
    if (entry.compare_exchange_strong(empty, pool)) return;
  }
  throw std::runtime_error("at most 64 engines of one process can be deterministic");
}

void forget(ggml_threadpool* pool) {
  for (auto& entry : reference_pools) {
    ggml_threadpool* expected = pool;
    entry.compare_exchange_strong(expected, nullptr);
  }
}

}  // namespace llamaherd::kernels

#include "kernels/ggml/panel_buffer.h"

#include <algorithm>

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "kernels/common/huge_pages.h"
#include "kernels/matmul/panels.h"

namespace llamaherd::kernels {
namespace {

constexpr std::size_t kAlignment = 64;

thread_local int n_packing_threads = 0;  // 0: not loading, or not into panels

const char* name_of(ggml_backend_buffer_type_t) { return "llamaherd"; }

void set_tensor(ggml_backend_buffer_t, ggml_tensor* tensor, const void* data, std::size_t offset,
                std::size_t size) {
  GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor));
  pack_panels(*tensor, data, static_cast<std::byte*>(tensor->data), std::max(n_packing_threads, 1));
}

/// Plain ggml memory whose content is rearranged on write. It cannot be read back.
ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, std::size_t size) {
  ggml_backend_buffer_t buffer =
      ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
  if (!buffer) return nullptr;
  prefer_huge_pages(ggml_backend_buffer_get_base(buffer), size);
  buffer->buft = type;
  buffer->iface.init_tensor = nullptr;
  buffer->iface.set_tensor = set_tensor;
  buffer->iface.get_tensor = nullptr;
  buffer->iface.cpy_tensor = nullptr;
  return buffer;
}

std::size_t allocated_bytes(ggml_backend_buffer_type_t, const ggml_tensor* tensor) {
  return has_panels(*tensor) ? panels_bytes(*tensor) : ggml_nbytes(tensor);
}

}  // namespace

ggml_backend_buffer_type_t panel_buffer_type() {
  static ggml_backend_buffer_type type = {
      /*.iface =*/{
          /*.get_name       =*/name_of,
          /*.alloc_buffer   =*/allocate,
          /*.get_alignment  =*/[](ggml_backend_buffer_type_t) { return kAlignment; },
          /*.get_max_size   =*/nullptr,
          /*.get_alloc_size =*/allocated_bytes,
          /*.is_host        =*/nullptr,
      },
      /*.device  =*/ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
      /*.context =*/nullptr,
  };
  return &type;
}

bool in_panels(const ggml_tensor& weights) {
  return weights.buffer && weights.buffer->buft == panel_buffer_type();
}

bool takes_weights() { return n_packing_threads > 0; }

LoadScope::LoadScope(Mode mode, int n_threads) {
  n_packing_threads = mode == Mode::kFast ? n_threads : 0;
}
LoadScope::~LoadScope() { n_packing_threads = 0; }

}  // namespace llamaherd::kernels

#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "kernels/ggml/ggml_hook.h"
#include "kernels/ggml/panel_buffer.h"

namespace llamaherd::kernels {

/// A CPU backend with a thread pool whose graphs are computed by kernels of one mode.
class Cpu {
 public:
  Cpu(Mode mode, int n_threads) {
    install_hook();
    ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
    params.poll = 1;
    pool_ = ggml_threadpool_new(&params);
    use(pool_, mode, BatchProfile::kFewRows);
    backend_ = ggml_backend_cpu_init();
    ggml_backend_cpu_set_threadpool(backend_, pool_);
    ggml_backend_cpu_set_n_threads(backend_, n_threads);
  }
  ~Cpu() {
    ggml_backend_free(backend_);
    forget(pool_);
    ggml_threadpool_free(pool_);
  }
  Cpu(const Cpu&) = delete;

  ggml_status compute(ggml_cgraph* graph) {
    const ComputeScope scope(pool_);
    return ggml_backend_graph_compute(backend_, graph);
  }

 private:
  ggml_threadpool* pool_;
  ggml_backend_t backend_;
};

using ContextPtr = std::unique_ptr<ggml_context, decltype(&ggml_free)>;
using BufferPtr = std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)>;

inline ContextPtr make_context() {
  return {ggml_init({ggml_tensor_overhead() * 64 + ggml_graph_overhead(), nullptr, true}),
          &ggml_free};
}

inline BufferPtr allocate(const ContextPtr& context, ggml_backend_buffer_type_t type) {
  return {ggml_backend_alloc_ctx_tensors_from_buft(context.get(), type), &ggml_backend_buffer_free};
}

inline std::vector<float> normal(std::size_t n, std::mt19937& random, float scale = 1) {
  std::normal_distribution<float> distribution(0, scale);
  std::vector<float> values(n);
  for (float& value : values) value = distribution(random);
  return values;
}

/// `values` in ggml's rows of `type`.
inline std::vector<std::byte> quantized(ggml_type type, const std::vector<float>& values,
                                        std::int64_t n_in) {
  const auto n_rows = static_cast<std::int64_t>(values.size()) / n_in;
  std::vector<std::byte> rows(n_rows * ggml_row_size(type, n_in));
  ggml_quantize_chunk(type, values.data(), rows.data(), 0, n_rows, n_in, nullptr);
  return rows;
}

inline std::vector<float> dequantized(ggml_type type, const std::vector<std::byte>& rows,
                                      std::int64_t n_in) {
  const std::size_t n_rows = rows.size() / ggml_row_size(type, n_in);
  std::vector<float> values(n_rows * n_in);
  if (type == GGML_TYPE_F32) {
    std::memcpy(values.data(), rows.data(), rows.size());
    return values;
  }
  for (std::size_t i = 0; i < n_rows; ++i) {
    ggml_get_type_traits(type)->to_float(rows.data() + i * ggml_row_size(type, n_in),
                                         values.data() + i * n_in, n_in);
  }
  return values;
}

}  // namespace llamaherd::kernels

#include "kernels/matmul/matmul.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ggml-cpu-impl.h"
#include "kernels/common/cache_lines.h"
#include "kernels/common/kernel_table.h"
#include "kernels/common/pool_state.h"
#include "kernels/common/tensor_rows.h"
#include "kernels/matmul/bf16_split.h"
#include "kernels/matmul/panels.h"

namespace llamaherd::kernels {
namespace {

// Up to this many values every thread converts all activations itself, which is faster than waiting
// for each other.
constexpr std::int64_t kPrivateValues = 8192;
// Rows whose activations stay in the L2 cache during a pass over all panels. Split rows need more
// rows, as their products are fast relative to unpacking the weights.
constexpr std::int64_t kBytesOfRows = 256 << 10;
constexpr std::int64_t kBytesOfSplitRows = 1 << 20;
constexpr std::int64_t kLeastRows = 64;
// Most rows that kernels process at a time.
constexpr std::int64_t kRowsAtOnce = 16;

const KernelTable& kernels_of(const PoolState* state) {
  return *best_kernels(state ? state->calls : BatchProfile::kFewRows);
}

RowForm form_for(ggml_type weights, const KernelTable& kernels) {
  if (ggml_is_quantized(weights)) return RowForm::kQuantized;
  return weights != GGML_TYPE_F32 && kernels.split ? RowForm::kSplit : RowForm::kPlain;
}

/// Bytes of a converted row.
std::size_t bytes_as(RowForm form, std::int64_t n) {
  switch (form) {
    case RowForm::kQuantized:
      return n / kBlockInputs * sizeof(ActivationBlock);
    case RowForm::kSplit:
      return split_row_bytes(n);
    default:
      return 0;
  }
}

/// Sizes of a node, and offsets in its scratch memory.
struct Shape {
  const ggml_tensor& weights;
  const ggml_tensor& x;
  std::int64_t n_in, n_out, n_rows, n_products;  // n_products: rows of the result
  std::int64_t n_panels;                         // of one expert
  RowForm form;
  bool is_private;
  std::int64_t n_fit;  // rows of x multiplied at a time
  std::size_t row_bytes, activations_bytes;
  std::size_t list_bytes, gathered_bytes, scratch_bytes;  // per thread

  Shape(const ggml_tensor& dst, const KernelTable& kernels)
      : weights(*dst.src[0]),
        x(*dst.src[1]),
        n_in(weights.ne[0]),
        n_out(weights.ne[1]),
        n_rows(ggml_nrows(&x)),
        n_products(ggml_nrows(&dst)),
        n_panels((n_out + kPanelOutputs - 1) / kPanelOutputs),
        form(form_for(weights.type, kernels)),
        is_private(n_in * n_rows <= kPrivateValues),
        row_bytes(bytes_as(form, n_in)),
        activations_bytes(whole_lines(n_rows * row_bytes)),
        list_bytes(whole_lines((2 * n_products + weights.ne[2] + 2) * sizeof(void*))) {
    const std::int64_t x_bytes = row_bytes > 0 ? row_bytes : n_in * sizeof(float);
    const std::int64_t all = form == RowForm::kSplit ? kBytesOfSplitRows : kBytesOfRows;
    n_fit = std::max(all / x_bytes / kRowsAtOnce * kRowsAtOnce, kLeastRows);
    const bool gathers = form == RowForm::kSplit && dst.op == GGML_OP_MUL_MAT_ID;
    scratch_bytes = kernels.scratch_bytes ? whole_lines(kernels.scratch_bytes(weights.type)) : 0;
    gathered_bytes = gathers ? whole_lines(std::min(n_fit, n_products) * row_bytes) : 0;
  }

  std::size_t own_bytes() const { return list_bytes + gathered_bytes + scratch_bytes; }

  std::size_t all_activations(int n_threads) const {
    return activations_bytes * (is_private ? n_threads : 1);
  }
};

/// One node, as computed by one thread.
class Multiply {
 public:
  Multiply(PoolState* state, const ggml_compute_params& params, ggml_tensor& dst)
      : kernels_(kernels_of(state)), s_(dst, kernels_), dst_(dst), params_(params) {
    const auto address = reinterpret_cast<std::uintptr_t>(params.wdata);
    std::byte* wdata = static_cast<std::byte*>(params.wdata) + (whole_lines(address) - address);
    std::byte* pointers = wdata + params.ith * s_.own_bytes();
    x_of_ = reinterpret_cast<const void**>(pointers);
    out_of_ = reinterpret_cast<float**>(pointers + s_.n_products * sizeof(void*));
    ends_ = reinterpret_cast<std::int64_t*>(out_of_ + s_.n_products);
    gathered_ = pointers + s_.list_bytes;
    if (s_.form != RowForm::kPlain) prepare(state, wdata + params.nth * s_.own_bytes());
  }

  void run() {
    if (dst_.op == GGML_OP_MUL_MAT_ID) {
      run_experts();
      return;
    }
    for (std::int64_t i = 0; i < s_.n_rows; ++i) set(i, i, row_of<float>(dst_, i));
    product(0, 0, s_.n_rows);
  }

 private:
  template <typename T>
  static T* row_of(const ggml_tensor& t, std::int64_t i) {
    const std::int64_t i1 = i % t.ne[1], i2 = i / t.ne[1] % t.ne[2], i3 = i / (t.ne[1] * t.ne[2]);
    return const_cast<T*>(at<T>(t, i1, i2, i3));
  }

  void set(std::int64_t product, std::int64_t row, float* out) {
    x_of_[product] = s_.form == RowForm::kPlain
                         ? row_of<void>(s_.x, row)
                         : static_cast<const void*>(activations_ + row * s_.row_bytes);
    out_of_[product] = out;
  }

  /// Converts the activations, unless the previous node had the same.
  void prepare(PoolState* state, std::byte* scratch) {
    WorkerState* memory = nullptr;
    activations_ = scratch;
    if (state && state->activations.size() >= s_.all_activations(params_.nth)) {
      activations_ = state->activations.data();
      memory = &state->memory(params_.ith);
    }
    if (s_.is_private) activations_ += params_.ith * s_.activations_bytes;
    if (memory && memory->activations == &s_.x && memory->form == s_.form) return;
    if (memory) {
      memory->activations = &s_.x;
      memory->form = s_.form;
    }
    const std::int64_t first = s_.is_private ? 0 : params_.ith;
    for (std::int64_t i = first; i < s_.n_rows; i += s_.is_private ? 1 : params_.nth) {
      prepare_row(row_of<float>(s_.x, i), activations_ + i * s_.row_bytes);
    }
    if (!s_.is_private) ggml_barrier(params_.threadpool);
  }

  void prepare_row(const float* x, std::byte* out) {
    if (s_.form == RowForm::kSplit) {
      kernels_.split(x, s_.n_in, out);
    } else {
      kernels_.quantize(x, s_.n_in, reinterpret_cast<ActivationBlock*>(out));
    }
  }

  /// Copies rows [begin, begin + n) of x_of_ to adjacent memory if the kernels require it.
  const void* const* side_by_side(std::int64_t begin, std::int64_t n) {
    const void** x = x_of_ + begin;
    if (s_.gathered_bytes == 0 || n == 1) return x;
    for (std::int64_t i = 0; i < n; ++i) {
      std::byte* copy = gathered_ + i * s_.row_bytes;
      x[i] = std::memcpy(copy, x[i], s_.row_bytes);
    }
    return x;
  }

  static std::int64_t blocks(std::int64_t n_rows, std::int64_t kv_save_block) {
    return (n_rows + kv_save_block - 1) / kv_save_block;
  }

  /// Rows per block, in equal blocks: all threads get equally many work items, so a shorter last
  /// block would leave a thread idle.
  std::int64_t rows_of_a_block(std::int64_t n_rows) const {
    const std::int64_t n = blocks(n_rows, blocks(n_rows, s_.n_fit));
    return blocks(n, kRowsAtOnce) * kRowsAtOnce;
  }

  /// This thread's part of the products of one expert's weights with rows [begin, end) of x_of_.
  /// Work items are panels, and blocks of rows if there are many rows.
  void product(std::int64_t expert, std::int64_t begin, std::int64_t end) {
    const std::int64_t kv_save_block = rows_of_a_block(end - begin);
    const std::int64_t n_pieces = blocks(end - begin, kv_save_block) * s_.n_panels;
    std::int64_t piece = n_pieces * params_.ith / params_.nth;
    const std::int64_t last = n_pieces * (params_.ith + 1) / params_.nth;
    while (piece < last) {
      const std::int64_t row = begin + piece / s_.n_panels * kv_save_block;
      const std::int64_t panel = piece % s_.n_panels;
      const std::int64_t n_panels = std::min(s_.n_panels - panel, last - piece);
      const std::int64_t n = std::min(kv_save_block, end - row);
      kernels_.multiply({
          .type = s_.weights.type,
          .panels = static_cast<const std::byte*>(s_.weights.data) +
                    (expert * s_.n_panels + panel) * panel_bytes(s_.weights),
          .n_panels = n_panels,
          .n_in = s_.n_in,
          .first = panel * kPanelOutputs,
          .n_out = s_.n_out,
          .x = side_by_side(row, n),
          .out = out_of_ + row,
          .n_rows = n,
          .scratch = gathered_ + s_.gathered_bytes,
      });
      piece += n_panels;
    }
  }

  /// Computes products grouped by expert (counting sort).
  void run_experts() {
    const ggml_tensor& ids = *dst_.src[2];  // [n_used, n_tokens]
    const std::int64_t n_experts = s_.weights.ne[2], n_used = ids.ne[0];
    const auto expert_of = [&](std::int64_t i) {
      return at<std::int32_t>(ids, i / n_used)[i % n_used];
    };
    // ends_[e + 1]: position of the next product of expert e; finally the end of its products.
    std::fill_n(ends_, n_experts + 2, 0);
    for (std::int64_t i = 0; i < s_.n_products; ++i) ++ends_[expert_of(i) + 2];
    for (std::int64_t e = 0; e < n_experts; ++e) ends_[e + 2] += ends_[e + 1];
    for (std::int64_t i = 0; i < s_.n_products; ++i) {
      const std::int64_t token = i / n_used, used = i % n_used;
      set(ends_[expert_of(i) + 1]++, token * s_.x.ne[1] + used % s_.x.ne[1],
          at<float>(dst_, used, token));
    }
    for (std::int64_t e = 0; e < n_experts; ++e) {
      if (ends_[e] < ends_[e + 1]) product(e, ends_[e], ends_[e + 1]);
    }
  }

  const KernelTable& kernels_;
  const Shape s_;
  ggml_tensor& dst_;
  const ggml_compute_params& params_;
  std::byte* activations_ = nullptr;
  std::byte* gathered_;
  const void** x_of_;
  float** out_of_;
  std::int64_t* ends_;
};

}  // namespace

bool multiplies(const ggml_tensor& dst) {
  const ggml_tensor& weights = *dst.src[0];
  const ggml_tensor& x = *dst.src[1];
  const bool of_experts = dst.op == GGML_OP_MUL_MAT_ID;
  return has_panels(weights) && ggml_n_dims(&weights) == (of_experts ? 3 : 2) &&
         x.type == GGML_TYPE_F32 && x.nb[0] == sizeof(float) && dst.type == GGML_TYPE_F32;
}

std::size_t plan_multiply(PoolState* state, const ggml_tensor& dst, int n_threads) {
  const Shape shape(dst, kernels_of(state));
  if (state) state->activations.reserve(shape.all_activations(n_threads));
  // One more line, as ggml's memory may not be aligned to a cache line.
  return n_threads * shape.own_bytes() + shape.all_activations(n_threads) + whole_lines(1);
}

void multiply(PoolState* state, const ggml_compute_params& params, ggml_tensor& dst) {
  Multiply(state, params, dst).run();
}

}  // namespace llamaherd::kernels

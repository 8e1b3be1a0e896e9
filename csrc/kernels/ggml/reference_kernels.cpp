#include "kernels/ggml/reference_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "kernels/attention/attention_op.h"
#include "kernels/common/tensor_rows.h"

namespace llamaherd::kernels {
namespace {

/// Activation rows in the type required by the weights' dot product: as they are, or converted into
/// the shared scratch buffer, each row by one thread.
class Activations {
 public:
  Activations(const ggml_compute_params& params, const ggml_tensor& src, ggml_type wanted)
      : src_(src), scratch_(nullptr), row_size_(ggml_row_size(wanted, src.ne[0])) {
    if (src.type == wanted) return;
    scratch_ = static_cast<char*>(params.wdata);
    const auto convert = ggml_get_type_traits_cpu(wanted)->from_float;
    const std::int64_t n_rows = ggml_nrows(&src);
    for (std::int64_t r = params.ith; r < n_rows; r += params.nth) {
      const std::int64_t i1 = r % src.ne[1];
      const std::int64_t i2 = r / src.ne[1] % src.ne[2];
      const std::int64_t i3 = r / (src.ne[1] * src.ne[2]);
      convert(at<float>(src, i1, i2, i3), scratch_ + r * row_size_, src.ne[0]);
    }
    ggml_barrier(params.threadpool);
  }

  const void* row(std::int64_t i1, std::int64_t i2, std::int64_t i3) const {
    if (!scratch_) return at<char>(src_, i1, i2, i3);
    return scratch_ + ((i3 * src_.ne[2] + i2) * src_.ne[1] + i1) * row_size_;
  }

 private:
  const ggml_tensor& src_;
  char* scratch_;
  std::size_t row_size_;
};

bool covers(const ggml_tensor& weights, const ggml_tensor& activations, const ggml_tensor& dst) {
  const auto* traits = ggml_get_type_traits_cpu(weights.type);
  return traits->vec_dot && activations.type == GGML_TYPE_F32 && dst.type == GGML_TYPE_F32 &&
         weights.nb[0] == ggml_type_size(weights.type) && activations.nb[0] == sizeof(float);
}

struct Range {
  std::int64_t begin, end;
};

Range share(std::int64_t n, const ggml_compute_params& params) {
  return {n * params.ith / params.nth, n * (params.ith + 1) / params.nth};
}

}  // namespace

bool reference_mul_mat(const ggml_compute_params& params, ggml_tensor& dst) {
  const ggml_tensor& weights = *dst.src[0];
  const ggml_tensor& x = *dst.src[1];
  if (!covers(weights, x, dst)) return false;
  const auto* traits = ggml_get_type_traits_cpu(weights.type);
  const Activations activations(params, x, traits->vec_dot_type);
  const Range rows = share(weights.ne[1], params);
  const std::int64_t r2 = x.ne[2] / weights.ne[2];
  const std::int64_t r3 = x.ne[3] / weights.ne[3];
  for (std::int64_t i3 = 0; i3 < x.ne[3]; ++i3) {
    for (std::int64_t i2 = 0; i2 < x.ne[2]; ++i2) {
      for (std::int64_t w = rows.begin; w < rows.end; ++w) {
        const void* weight_row = at<char>(weights, w, i2 / r2, i3 / r3);
        for (std::int64_t i1 = 0; i1 < x.ne[1]; ++i1) {
          traits->vec_dot(static_cast<int>(x.ne[0]), at<float>(dst, i1, i2, i3) + w, 0, weight_row,
                          0, activations.row(i1, i2, i3), 0, 1);
        }
      }
    }
  }
  return true;
}

bool reference_mul_mat_id(const ggml_compute_params& params, ggml_tensor& dst) {
  const ggml_tensor& weights = *dst.src[0];  // [n_in, n_out, n_expert]
  const ggml_tensor& x = *dst.src[1];        // [n_in, n_used or 1, n_rows]
  const ggml_tensor& ids = *dst.src[2];      // [n_used, n_rows]
  if (!covers(weights, x, dst)) return false;
  const auto* traits = ggml_get_type_traits_cpu(weights.type);
  const Activations activations(params, x, traits->vec_dot_type);
  const Range rows = share(weights.ne[1], params);
  for (std::int64_t row = 0; row < ids.ne[1]; ++row) {
    for (std::int64_t used = 0; used < ids.ne[0]; ++used) {
      const std::int32_t expert = at<std::int32_t>(ids, row)[used];
      const void* activation = activations.row(used % x.ne[1], row, 0);
      float* out = at<float>(dst, used, row);
      for (std::int64_t w = rows.begin; w < rows.end; ++w) {
        traits->vec_dot(static_cast<int>(x.ne[0]), out + w, 0, at<char>(weights, w, expert), 0,
                        activation, 0, 1);
      }
    }
  }
  return true;
}

namespace {

// A weight is at most 1 and a value at most 65504 (F16) or clamped to it (F32); with 2^19 cells
// their sum is below 2^63 at this scale. The resolution, 2^-28, is far finer than F16's.
constexpr float kFixedPoint = 268435456.0f;  // 2^28
constexpr float kMaxValue = 65504.0f;
constexpr std::int64_t kMaxCells = 1 << 19;
constexpr std::int64_t kMaxHeadSize = 1024;

bool covered(const AttentionOp& a) {
  const auto plain = [](const ggml_tensor* t) {
    return (t->type == GGML_TYPE_F16 || t->type == GGML_TYPE_F32) &&
           t->nb[0] == ggml_type_size(t->type);
  };
  return plain(a.k) && plain(a.v) && a.q->type == GGML_TYPE_F32 && a.q->nb[0] == sizeof(float) &&
         a.k->ne[1] <= kMaxCells && a.k->ne[0] <= kMaxHeadSize && a.v->ne[0] <= kMaxHeadSize &&
         (!a.mask || a.mask->type == GGML_TYPE_F16);
}

/// Score of one query row against one cell. The arithmetic does not depend on the cell's index.
float score(const AttentionOp& a, const void* q_row, const void* k_row, float bias) {
  float s = 0;
  ggml_get_type_traits_cpu(a.k->type)->vec_dot(static_cast<int>(a.k->ne[0]), &s, 0, k_row, 0, q_row,
                                               0, 1);
  s *= a.scale;
  if (a.softcap != 0) s = a.softcap * std::tanh(s / a.softcap);
  return s + bias;
}

void load_value(const ggml_tensor& v, const void* row, float* out) {
  const std::int64_t n = v.ne[0];
  if (v.type == GGML_TYPE_F16) {
    ggml_cpu_fp16_to_fp32(static_cast<const ggml_fp16_t*>(row), out, n);
    return;
  }
  const float* values = static_cast<const float*>(row);
  for (std::int64_t i = 0; i < n; ++i) out[i] = std::clamp(values[i], -kMaxValue, kMaxValue);
}

void attend(const AttentionOp& a, ggml_tensor& dst, std::int64_t i1, std::int64_t h,
            std::int64_t i3) {
  alignas(64) float q_row[kMaxHeadSize];
  alignas(64) float value[kMaxHeadSize];
  alignas(64) std::int64_t sum[kMaxHeadSize];
  const std::int64_t n_kv = a.k->ne[1];
  const std::int64_t n_value = a.v->ne[0];
  const std::int64_t k_head = h / (a.q->ne[2] / a.k->ne[2]), k3 = i3 / (a.q->ne[3] / a.k->ne[3]);
  const std::int64_t v_head = h / (a.q->ne[2] / a.v->ne[2]), v3 = i3 / (a.q->ne[3] / a.v->ne[3]);
  const float slope = a.slope(h);
  const ggml_fp16_t* mask =
      a.mask ? at<ggml_fp16_t>(*a.mask, i1, h % a.mask->ne[2], i3 % a.mask->ne[3]) : nullptr;
  const auto bias = [&](std::int64_t cell) {
    return mask ? slope * ggml_fp16_to_fp32(mask[cell]) : 0.0f;
  };

  const auto* q_traits =
      ggml_get_type_traits_cpu(ggml_get_type_traits_cpu(a.k->type)->vec_dot_type);
  q_traits->from_float(at<float>(*a.q, i1, h, i3), q_row, a.q->ne[0]);

  float max = a.sinks ? static_cast<const float*>(a.sinks->data)[h] : -INFINITY;
  for (std::int64_t cell = 0; cell < n_kv; ++cell) {
    const float b = bias(cell);
    if (b == -INFINITY) continue;
    const float s = score(a, q_row, at<char>(*a.k, cell, k_head, k3), b);
    max = s > max || std::isnan(s) ? s : max;
  }
  float* out = at<float>(dst, h, i1, i3);
  if (std::isnan(max) || max == INFINITY) {  // integers would lose it
    std::fill_n(out, n_value, NAN);
    return;
  }

  std::fill_n(sum, n_value, 0);
  std::int64_t weights = 0;
  if (a.sinks) {
    weights = static_cast<std::int64_t>(
        std::exp(static_cast<const float*>(a.sinks->data)[h] - max) * kFixedPoint);
  }
  bool any_nan = false;
  for (std::int64_t cell = 0; cell < n_kv; ++cell) {
    const float b = bias(cell);
    if (b == -INFINITY) continue;
    const float s = score(a, q_row, at<char>(*a.k, cell, k_head, k3), b);
    const float weight = std::exp(s - max);
    load_value(*a.v, at<char>(*a.v, cell, v_head, v3), value);
    weights += static_cast<std::int64_t>(weight * kFixedPoint);
    for (std::int64_t i = 0; i < n_value; ++i) {
      sum[i] += static_cast<std::int64_t>(weight * value[i] * kFixedPoint);
      any_nan |= !(std::abs(value[i]) <= kMaxValue);
    }
  }
  for (std::int64_t i = 0; i < n_value; ++i) {
    out[i] = any_nan ? NAN
                     : static_cast<float>(static_cast<double>(sum[i]) /
                                          static_cast<double>(std::max<std::int64_t>(weights, 1)));
  }
}

}  // namespace

bool reference_flash_attn(const ggml_compute_params& params, ggml_tensor& dst) {
  const AttentionOp a(dst);
  if (!covered(a)) return false;
  const Range rows = share(a.q->ne[1] * a.q->ne[2] * a.q->ne[3], params);
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    attend(a, dst, r % a.q->ne[1], r / a.q->ne[1] % a.q->ne[2], r / (a.q->ne[1] * a.q->ne[2]));
  }
  return true;
}

}  // namespace llamaherd::kernels

#include "sampling/logits_math.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace llamaherd {
namespace {

// GCC's and Clang's vector extension: compiles to AVX-512, AVX2, SSE or NEON.
constexpr std::size_t kLanes = 16;
using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Ints = std::int32_t __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

constexpr float kNegInf = -std::numeric_limits<float>::infinity();

Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

/// A partial vector, padded with -inf.
Floats load_tail(const float* p, std::size_t n) {
  float buffer[kLanes];
  std::fill(buffer, buffer + kLanes, kNegInf);
  std::copy(p, p + n, buffer);
  return load(buffer);
}

// 2^f on [-0.5, 0.5] by its Taylor series, then the exponent's bits. Inputs below -87 give 0: such
// a token's probability is below 1e-37.
Floats exp_nonpositive(Floats x) {
  const Ints tiny = x < -87.0f;
  x = tiny ? Floats{} - 87.0f : x;
  const Floats t = x * 1.44269504088896f;
  const Ints n = __builtin_convertvector(t - 0.5f, Ints);  // truncates towards 0: t <= 0
  const Floats f = t - __builtin_convertvector(n, Floats);
  Floats p = f * 1.5403530393381608e-4f + 1.3333558146428443e-3f;
  p = p * f + 9.6181291076284772e-3f;
  p = p * f + 5.5504108664821580e-2f;
  p = p * f + 2.4022650695910072e-1f;
  p = p * f + 6.9314718055994531e-1f;
  p = p * f + 1.0f;
  const Ints bits = (n + 127) << 23;
  Floats scale;
  std::memcpy(&scale, &bits, sizeof scale);
  const Floats result = p * scale;
  return tiny ? Floats{} : result;
}

float sum(Floats v) {
  for (std::size_t width = kLanes / 2; width > 0; width /= 2) {
    for (std::size_t i = 0; i < width; ++i) v[i] += v[i + width];
  }
  return v[0];
}

template <typename Body>
void for_each_vector(std::span<const float> block, Body&& body) {
  std::size_t i = 0;
  for (; i + kLanes <= block.size(); i += kLanes) body(load(block.data() + i));
  if (i < block.size()) body(load_tail(block.data() + i, block.size() - i));
}

}  // namespace

RowScan scan_row(std::span<const float> logits, std::vector<float>& block_max) {
  block_max.resize((logits.size() + kLogitsBlock - 1) / kLogitsBlock);
  RowScan scan{kNegInf, 0, false};
  Ints nan{};
  std::size_t best_block = 0;
  for (std::size_t b = 0; b < block_max.size(); ++b) {
    const std::size_t begin = b * kLogitsBlock;
    Floats max = Floats{} + kNegInf;
    for_each_vector(logits.subspan(begin, std::min(kLogitsBlock, logits.size() - begin)),
                    [&](Floats v) {
                      nan |= v != v;
                      max = v > max ? v : max;
                    });
    float best = max[0];
    for (std::size_t i = 1; i < kLanes; ++i) best = std::max(best, max[i]);
    block_max[b] = best;
    if (best > scan.max) {
      scan.max = best;
      best_block = b;
    }
  }
  bool any_nan = false;
  for (std::size_t i = 0; i < kLanes; ++i) any_nan |= nan[i] != 0;
  scan.finite = !any_nan && std::isfinite(scan.max);
  if (scan.finite) {
    std::size_t i = best_block * kLogitsBlock;
    while (logits[i] != scan.max) ++i;
    scan.argmax = static_cast<TokenId>(i);
  }
  return scan;
}

double exp_sums(std::span<const float> logits, float max, float scale,
                std::vector<float>& block_sums) {
  block_sums.resize((logits.size() + kLogitsBlock - 1) / kLogitsBlock);
  double total = 0;
  for (std::size_t b = 0; b < block_sums.size(); ++b) {
    const std::size_t begin = b * kLogitsBlock;
    Floats acc{};
    for_each_vector(logits.subspan(begin, std::min(kLogitsBlock, logits.size() - begin)),
                    [&](Floats v) { acc += exp_nonpositive((v - max) * scale); });
    block_sums[b] = sum(acc);
    total += block_sums[b];
  }
  return total;
}

std::int32_t count_better(std::span<const float> logits, TokenId token) {
  const float logit = logits[token];
  std::int32_t n =
      static_cast<std::int32_t>(std::count(logits.begin(), logits.begin() + token, logit));
  Ints above{};
  for_each_vector(logits, [&](Floats v) { above -= v > logit; });
  for (std::size_t i = 0; i < kLanes; ++i) n += above[i];
  return n;
}

float exp_weight(float logit, float max, float scale) {
  return exp_nonpositive(Floats{} + (logit - max) * scale)[0];
}

}  // namespace llamaherd

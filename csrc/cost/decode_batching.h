#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cost/cost_model.h"

namespace llamaherd {

/// A call with one row for each of n_rows sequences and n_pad padding rows.
struct DecodeBatch {
  std::int32_t n_rows = 0;
  std::int32_t n_pad = 0;
  bool operator==(const DecodeBatch&) const = default;
};

/// Divides decode rows into calls. For some kernels a batch size is faster than a smaller one: the
/// rows are then padded to that size or divided into several calls. Found by dynamic programming
/// over the cost model's curve, and updated when it changes.
class DecodeBatching {
 public:
  static constexpr std::int32_t kMaxPad = 15;

  /// For up to n_max rows, padded to at most n_padded_max.
  DecodeBatching(std::int32_t n_max, std::int32_t n_padded_max)
      : n_max_(n_max), n_padded_max_(n_padded_max) {}

  /// The calls for n rows, n in [1, n_max], largest first. Valid until the next call.
  std::span<const DecodeBatch> of(std::int32_t n, const CostModel& model);

  /// The number of rows, at most n, with the least time per row; less than n only if the gain is
  /// significant. n in [1, n_max].
  std::int32_t most_productive(std::int32_t n, const CostModel& model);

 private:
  void keep_up(const CostModel& model);
  void solve(const CostModel& model);

  std::int32_t n_max_;
  std::int32_t n_padded_max_;
  std::int64_t version_ = -1;
  std::vector<double> alone_ns_;               // of one call, by number of rows
  std::vector<std::int32_t> n_pad_;            // padding rows, likewise
  std::vector<double> ns_;                     // of the best division into calls
  std::vector<DecodeBatch> first_;             // next call, by number of remaining rows
  std::vector<std::int32_t> most_productive_;  // by number of available rows
  std::vector<DecodeBatch> batching_;
};

}  // namespace llamaherd

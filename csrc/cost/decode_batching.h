#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cost/cost_model.h"

namespace llamaherd {

/// A call that carries one row each of n_rows sequences, filled up by n_pad rows that nobody needs.
struct DecodeBatch {
  std::int32_t n_rows = 0;
  std::int32_t n_pad = 0;
  bool operator==(const DecodeBatch&) const = default;
};

/// Into which calls decode rows are best packed. Kernels like some numbers of rows and take longer
/// for fewer: then the rows are filled up to the next good number, or go in several calls. Found by
/// dynamic programming over the cost model's curve, anew when that has changed.
class DecodeBatching {
 public:
  static constexpr std::int32_t kMaxPad = 15;

  /// For up to n_max rows, filled up to n_padded_max at most.
  DecodeBatching(std::int32_t n_max, std::int32_t n_padded_max)
      : n_max_(n_max), n_padded_max_(n_padded_max) {}

  /// The calls for n rows, in [1, n_max], widest first; valid until the next call.
  std::span<const DecodeBatch> of(std::int32_t n, const CostModel& model);

  /// Of up to n rows, n in [1, n_max], the number that takes least time per row; fewer than n only
  /// if that is worth it.
  std::int32_t most_productive(std::int32_t n, const CostModel& model);

 private:
  void keep_up(const CostModel& model);
  void solve(const CostModel& model);

  std::int32_t n_max_;
  std::int32_t n_padded_max_;
  std::int64_t version_ = -1;
  std::vector<double> alone_ns_;               // by number of rows: of one call with them
  std::vector<std::int32_t> n_pad_;            // how many it is filled up by
  std::vector<double> ns_;                     // of the best calls for them
  std::vector<DecodeBatch> first_;             // by number of rows left: the call to make next
  std::vector<std::int32_t> most_productive_;  // by number of rows there are
  std::vector<DecodeBatch> batching_;
};

}  // namespace llamaherd

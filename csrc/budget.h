#pragma once

#include <cstdint>
#include <span>

namespace llamaherd {

/// Rows of stock CPU attention's tile: a prefill chunk that ends a prompt early ends on one.
inline constexpr std::int32_t kChunkRows = 64;

/// How many rows one step may carry.
struct Budget {
  std::int32_t n_rows = 0;                   // all rows of a step
  std::int32_t n_prefill_beside_decode = 0;  // prefill rows while at least one request decodes
};

/// Grants each request rows for the next step: one to each that has one token pending, then, in
/// the order given, prefill chunks until the budget is spent. A chunk that leaves part of a prompt
/// is cut to a multiple of kChunkRows where there is room for one. However many decode, the first
/// prompt in order is granted at least one row.
///
/// n_pending: tokens each request has yet to run, all >= 1. n_granted: of the same length.
/// Both budgets must be >= 1.
void pack_tokens(std::span<const std::int32_t> n_pending, const Budget& budget,
                 std::span<std::int32_t> n_granted);

}  // namespace llamaherd

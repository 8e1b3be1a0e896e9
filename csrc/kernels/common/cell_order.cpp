#include "kernels/common/cell_order.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace llamaherd::kernels {

bool CellOrder::reserve(std::int64_t n_cells) {
  n_cells_ = n_cells;
  if (!memory_.reserve((n_cells_ + n_places()) * sizeof(std::uint32_t))) {
    n_cells_ = 0;
    return false;
  }
  std::iota(places(), places() + n_cells_, 0);
  std::iota(cells(), cells() + n_cells_, 0);
  next_ = n_cells_;
  return true;
}

void CellOrder::number_anew() {
  const std::int64_t end = next_;
  next_ = 0;
  for (std::int64_t place = 0; place < end; ++place) {
    const std::uint32_t cell = cells()[place];
    if (places()[cell] != place) continue;
    cells()[next_] = cell;
    places()[cell] = static_cast<std::uint32_t>(next_++);
  }
}

void CellOrder::write(const std::int64_t* written, std::int64_t n) {
  if (next_ + n > n_places()) number_anew();
  for (std::int64_t i = 0; i < n; ++i) {
    cells()[next_] = static_cast<std::uint32_t>(written[i]);
    places()[written[i]] = static_cast<std::uint32_t>(next_++);
  }
}

void CellOrder::sort(std::uint32_t* sorted, std::int64_t n, std::uint64_t* marks) const {
  const auto place_of = [&](std::uint32_t cell) { return places()[cell]; };
  if (std::ranges::is_sorted(sorted, sorted + n, {}, place_of)) return;
  std::fill_n(marks, n_marks(), 0);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t place = place_of(sorted[i]);
    marks[place / 64] |= std::uint64_t{1} << place % 64;
  }
  for (std::int64_t word = 0; word < n_marks(); ++word) {
    for (std::uint64_t left = marks[word]; left != 0; left &= left - 1) {
      *sorted++ = cells()[word * 64 + std::countr_zero(left)];
    }
  }
}

}  // namespace llamaherd::kernels

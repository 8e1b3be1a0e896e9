#pragma once

#include <cstdint>

#include "kernels/common/workspace.h"

namespace llamaherd::kernels {

/// The order in which the cells of a KV cache were written last. What sequences share was written
/// before what is their own, and each sequence's cells in the order of its positions, wherever they
/// lie. (Cells that were filled from outside, as when a prefix is brought back, keep the places of
/// what they held before: in any case before everything that is written later.)
class CellOrder {
 public:
  /// Makes room, once; false if there is none.
  bool reserve(std::int64_t n_cells);

  std::int64_t n_cells() const { return n_cells_; }

  /// The n cells, each below n_cells(), were written in this order.
  void write(const std::int64_t* cells, std::int64_t n);

  /// Brings n different cells into the order. `marks`: room for n_marks().
  void sort(std::uint32_t* cells, std::int64_t n, std::uint64_t* marks) const;
  std::int64_t n_marks() const { return n_places() / 64; }

 private:
  // More places than cells, so that they seldom have to be numbered anew.
  static constexpr std::int64_t kPlacesPerCell = 4;

  std::int64_t n_places() const { return (kPlacesPerCell * n_cells_ + 63) / 64 * 64; }
  std::uint32_t* places() const { return reinterpret_cast<std::uint32_t*>(memory_.data()); }
  std::uint32_t* cells() const { return places() + n_cells_; }  // by place, if it is still theirs
  void number_anew();

  Workspace memory_;
  std::int64_t n_cells_ = 0;
  std::int64_t next_ = 0;  // place
};

}  // namespace llamaherd::kernels

#pragma once

#include <cstdint>

#include "kernels/common/workspace.h"

namespace llamaherd::kernels {

/// The order in which the cells of a KV cache were last written. Shared prefixes were written
/// before each sequence's own cells, and a sequence's cells in order of position, regardless of
/// their index. (Cells restored by load() keep the place of their previous content, which is before
/// all later writes.)
class CellOrder {
 public:
  /// Allocates memory, once. Returns false on failure.
  bool reserve(std::int64_t n_cells);

  std::int64_t n_cells() const { return n_cells_; }

  /// Records that the n cells, each below n_cells(), were written in this order.
  void write(const std::int64_t* cells, std::int64_t n);

  /// Sorts n distinct cells by write order. `marks` must have room for n_marks().
  void sort(std::uint32_t* cells, std::int64_t n, std::uint64_t* marks) const;
  std::int64_t n_marks() const { return n_places() / 64; }

 private:
  // More places than cells, so that renumbering is rare.
  static constexpr std::int64_t kPlacesPerCell = 4;

  std::int64_t n_places() const { return (kPlacesPerCell * n_cells_ + 63) / 64 * 64; }
  std::uint32_t* places() const { return reinterpret_cast<std::uint32_t*>(memory_.data()); }
  std::uint32_t* cells() const { return places() + n_cells_; }  // by place, unless rewritten since
  void number_anew();

  Workspace memory_;
  std::int64_t n_cells_ = 0;
  std::int64_t next_ = 0;  // place
};

}  // namespace llamaherd::kernels

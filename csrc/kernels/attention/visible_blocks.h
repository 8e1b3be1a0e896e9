#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/cell_order.h"
#include "kernels/common/kernel_table.h"

struct ggml_tensor;

namespace llamaherd::kernels {

/// The blocks visible to the rows of a ubatch, by tiles of rows, and the rows that share them.
/// Computed from the mask once for all layers and heads. The caller owns the memory.
class VisibleBlocks {
 public:
  /// order: in which rows visit their cells; null: by cell index.
  VisibleBlocks(std::byte* memory, std::int64_t n_rows, std::int64_t n_cells, int tile_rows,
                const CellOrder* order)
      : memory_(memory), n_rows_(n_rows), n_cells_(n_cells), tile_rows_(tile_rows), order_(order) {}

  struct Tile {
    std::int64_t n_blocks;  // shared blocks
    std::int64_t n_visible[kMaxTileRows];
    bool biased;  // the mask has values other than 0 and -inf
    SharedBlock* blocks;
    std::uint32_t* order;
  };

  std::int64_t n_tiles() const { return (n_rows_ + tile_rows_ - 1) / tile_rows_; }
  /// Most blocks visible to one row.
  std::int64_t n_row_blocks() const { return (n_cells_ + kBlockCells - 1) / kBlockCells; }
  int n_rows_of(std::int64_t tile) const;
  std::size_t bytes() const { return n_tiles() * tile_bytes(); }

  Tile& tile(std::int64_t i) const { return *reinterpret_cast<Tile*>(memory_ + i * tile_bytes()); }
  /// Each tile must be built by one thread.
  void build(std::int64_t tile, const ggml_tensor& mask, const KernelTable& kernels) const;

 private:
  std::size_t list_bytes() const { return 4 * (n_cells_ + 16); }
  std::size_t marks_bytes() const { return order_ ? order_->n_marks() * sizeof(std::uint64_t) : 0; }
  std::size_t tile_bytes() const;

  std::byte* memory_;
  std::int64_t n_rows_, n_cells_;
  int tile_rows_;
  const CellOrder* order_;
};

}  // namespace llamaherd::kernels

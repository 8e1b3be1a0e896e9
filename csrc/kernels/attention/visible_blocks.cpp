#include "kernels/attention/visible_blocks.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "kernels/common/cache_lines.h"
#include "kernels/common/tensor_rows.h"

namespace llamaherd::kernels {
namespace {

constexpr std::uint32_t kNone = ~0u;

/// Adds a row to a block if their cells are equal up to the shorter length.
bool join(SharedBlock& block, int row, const std::uint32_t* cells, int n) {
  const int n_common = std::min<int>(n, block.n_cells);
  if (std::memcmp(block.cells, cells, n_common * sizeof *cells) != 0) return false;
  if (n > block.n_cells) {
    std::copy(cells + n_common, cells + n, block.cells + n_common);
    block.n_cells = static_cast<std::uint8_t>(n);
  }
  block.row[block.n_rows] = static_cast<std::uint8_t>(row);
  block.count[block.n_rows++] = static_cast<std::uint8_t>(n);
  return true;
}

/// Orders blocks. Each row's blocks must be in ascending order to be merged. Blocks of one row are
/// consecutive where shared blocks allow it, for sequential memory access.
void put_in_order(const VisibleBlocks::Tile& tile, int n_rows, const std::uint32_t* of_row,
                  std::int64_t n_row_blocks) {
  std::uint32_t n_taken[kMaxTileRows] = {};
  const auto is_next = [&](const SharedBlock& block) {
    return std::all_of(block.row, block.row + block.n_rows,
                       [&](std::uint8_t row) { return n_taken[row] == block.index; });
  };
  std::int64_t n = 0;
  while (n < tile.n_blocks) {
    for (int row = 0; row < n_rows; ++row) {
      while (n_taken[row] * kBlockCells < tile.n_visible[row]) {
        const std::uint32_t i = of_row[row * n_row_blocks + n_taken[row]];
        const SharedBlock& block = tile.blocks[i];
        if (!is_next(block)) break;
        tile.order[n++] = i;
        for (int r = 0; r < block.n_rows; ++r) ++n_taken[block.row[r]];
      }
    }
  }
}

}  // namespace

int VisibleBlocks::n_rows_of(std::int64_t tile) const {
  return static_cast<int>(std::min<std::int64_t>(tile_rows_, n_rows_ - tile * tile_rows_));
}

std::size_t VisibleBlocks::tile_bytes() const {
  const std::size_t n_blocks = tile_rows_ * n_row_blocks();
  return whole_lines(sizeof(Tile)) + whole_lines(n_blocks * sizeof(SharedBlock)) +
         whole_lines(n_blocks * 3 * sizeof(std::uint32_t)) +
         whole_lines(n_row_blocks() * sizeof(std::uint32_t)) + whole_lines(list_bytes()) +
         whole_lines(marks_bytes());
}

void VisibleBlocks::build(std::int64_t index, const ggml_tensor& mask,
                          const KernelTable& kernels) const {
  std::byte* at_byte = memory_ + index * tile_bytes();
  const std::size_t n_most = tile_rows_ * n_row_blocks();
  const auto take = [&](std::size_t bytes) {
    std::byte* begin = at_byte;
    at_byte += whole_lines(bytes);
    return begin;
  };
  Tile& tile = *new (take(sizeof(Tile))) Tile{};
  tile.blocks = reinterpret_cast<SharedBlock*>(take(n_most * sizeof(SharedBlock)));
  tile.order = reinterpret_cast<std::uint32_t*>(take(n_most * 3 * sizeof(std::uint32_t)));
  auto* first = reinterpret_cast<std::uint32_t*>(take(n_row_blocks() * sizeof(std::uint32_t)));
  auto* cells = reinterpret_cast<std::uint32_t*>(take(list_bytes()));
  auto* marks = reinterpret_cast<std::uint64_t*>(take(marks_bytes()));
  std::uint32_t* next = tile.order + n_most;  // linked lists of blocks with equal index
  std::uint32_t* of_row = next + n_most;      // blocks of each row
  std::fill_n(first, n_row_blocks(), kNone);

  std::uint32_t n = 0;
  for (int row = 0; row < n_rows_of(index); ++row) {
    const auto* shown = at<std::uint16_t>(mask, index * tile_rows_ + row);
    const std::int64_t n_visible = kernels.visible_cells(shown, n_cells_, cells, &tile.biased);
    tile.n_visible[row] = n_visible;
    if (order_) order_->sort(cells, n_visible, marks);
    for (std::int64_t b = 0; b * kBlockCells < n_visible; ++b) {
      const std::uint32_t* of_block = cells + b * kBlockCells;
      const int count =
          static_cast<int>(std::min<std::int64_t>(kBlockCells, n_visible - b * kBlockCells));
      std::uint32_t i = first[b];
      while (i != kNone && !join(tile.blocks[i], row, of_block, count)) i = next[i];
      if (i == kNone) {
        i = n++;
        tile.blocks[i].index = static_cast<std::uint32_t>(b);
        tile.blocks[i].n_cells = tile.blocks[i].n_rows = 0;
        join(tile.blocks[i], row, of_block, count);
        next[i] = first[b];
        first[b] = i;
      }
      of_row[row * n_row_blocks() + b] = i;
    }
  }
  tile.n_blocks = n;
  put_in_order(tile, n_rows_of(index), of_row, n_row_blocks());
}

}  // namespace llamaherd::kernels

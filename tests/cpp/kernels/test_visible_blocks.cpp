#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "ggml.h"
#include "kernels/attention/visible_blocks.h"
#include "kernels/common/kernel_table.h"

namespace llamaherd::kernels {
namespace {

constexpr int kRows = 7;
constexpr std::int64_t kCells = 1000;

/// Runs of cells, each seen by some of the rows.
std::vector<std::uint16_t> random_mask(std::mt19937& random) {
  std::vector<std::uint16_t> mask(kRows * kCells, 0xfc00);
  for (std::int64_t cell = 0; cell < kCells;) {
    const std::int64_t end = std::min<std::int64_t>(kCells, cell + 1 + random() % 150);
    const unsigned viewers = random() % 3 == 0 ? (1u << kRows) - 1 : random() % (1u << kRows);
    for (; cell < end; ++cell) {
      for (int row = 0; row < kRows; ++row) {
        if (viewers >> row & 1) mask[row * kCells + cell] = 0;
      }
    }
  }
  return mask;
}

std::vector<std::uint32_t> seen_by(const std::uint16_t* mask) {
  std::vector<std::uint32_t> cells;
  for (std::int64_t i = 0; i < kCells; ++i) {
    if (mask[i] == 0) cells.push_back(static_cast<std::uint32_t>(i));
  }
  return cells;
}

TEST(VisibleBlocks, EachRowMeetsItsCellsInOrder) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::uint16_t> mask = random_mask(random);
    ggml_tensor shown{};
    shown.data = mask.data();
    shown.nb[1] = kCells * sizeof mask[0];
    std::vector<std::byte> memory(VisibleBlocks(nullptr, kRows, kCells, kRows, nullptr).bytes());
    const VisibleBlocks blocks(memory.data(), kRows, kCells, kRows, nullptr);
    blocks.build(0, shown, *best_kernels());
    const VisibleBlocks::Tile& tile = blocks.tile(0);
    for (int row = 0; row < kRows; ++row) {
      std::vector<std::uint32_t> met;
      for (std::int64_t i = 0; i < tile.n_blocks; ++i) {
        const SharedBlock& block = tile.blocks[tile.order[i]];
        const auto* at = std::find(block.row, block.row + block.n_rows, row);
        if (at == block.row + block.n_rows) continue;
        met.insert(met.end(), block.cells, block.cells + block.count[at - block.row]);
      }
      ASSERT_EQ(met, seen_by(mask.data() + row * kCells)) << "row " << row << ", round " << round;
    }
  }
}

TEST(VisibleBlocks, BlocksThatOneRowSeesAloneAreNotTornApart) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::vector<std::uint16_t> mask(2 * kCells, 0xfc00);
  std::fill_n(mask.begin(), 500, 0);
  std::fill_n(mask.begin() + kCells + 500, 500, 0);
  ggml_tensor shown{};
  shown.data = mask.data();
  shown.nb[1] = kCells * sizeof mask[0];
  std::vector<std::byte> memory(VisibleBlocks(nullptr, 2, kCells, 2, nullptr).bytes());
  const VisibleBlocks blocks(memory.data(), 2, kCells, 2, nullptr);
  blocks.build(0, shown, *best_kernels());
  const VisibleBlocks::Tile& tile = blocks.tile(0);
  ASSERT_EQ(tile.n_blocks, 16);
  for (int i = 0; i < 16; ++i) EXPECT_EQ(tile.blocks[tile.order[i]].row[0], i / 8) << i;
}

}  // namespace
}  // namespace llamaherd::kernels

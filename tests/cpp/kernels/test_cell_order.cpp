#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "attention_problem.h"
#include "kernels/attention/visible_blocks.h"
#include "kernels/common/cell_order.h"
#include "kernels/common/kernel_table.h"

namespace llamaherd::kernels {
namespace {

template <class T>
std::vector<T> some(std::vector<T> from, std::size_t n, std::mt19937& random) {
  std::ranges::shuffle(from, random);
  from.resize(n);
  return from;
}

std::vector<std::int64_t> all_of(std::int64_t n) {
  std::vector<std::int64_t> cells(n);
  std::iota(cells.begin(), cells.end(), 0);
  return cells;
}

TEST(CellOrder, IsThatOfTheLatestWrites) {
  std::mt19937 random(1);
  for (const std::int64_t n_cells : {1, 7, 64, 300}) {
    CellOrder order;
    ASSERT_TRUE(order.reserve(n_cells));
    std::vector<std::int64_t> written = all_of(n_cells);  // oldest first
    std::vector<std::uint64_t> marks(order.n_marks(), 7);
    for (int round = 0; round < 200; ++round) {
      const auto cells = some(all_of(n_cells), 1 + random() % n_cells, random);
      order.write(cells.data(), static_cast<std::int64_t>(cells.size()));
      std::erase_if(written, [&](std::int64_t c) { return std::ranges::count(cells, c) > 0; });
      written.insert(written.end(), cells.begin(), cells.end());

      const auto seen = some(all_of(n_cells), random() % (n_cells + 1), random);
      std::vector<std::uint32_t> sorted(seen.begin(), seen.end()), expected;
      std::ranges::sort(sorted);
      order.sort(sorted.data(), static_cast<std::int64_t>(sorted.size()), marks.data());
      for (const std::int64_t c : written) {
        if (std::ranges::count(seen, c) > 0) expected.push_back(static_cast<std::uint32_t>(c));
      }
      ASSERT_EQ(sorted, expected) << "round " << round;
    }
  }
}

/// A layer's K and V, written by SET_ROWS nodes as llama.cpp does.
class Cache {
 public:
  Cache(const Heads& heads, std::int64_t n_cells, Cpu& cpu)
      : heads_(heads), cpu_(cpu), context_(make_context()) {
    k_ = ggml_new_tensor_2d(context_.get(), GGML_TYPE_F16, row_size(), n_cells);
    v_ = ggml_new_tensor_2d(context_.get(), GGML_TYPE_F16, row_size(), n_cells);
    buffer_ = allocate(context_, ggml_backend_cpu_buffer_type());
    ggml_backend_buffer_clear(buffer_.get(), 0);
  }

  /// Cells [begin, begin + n) of p go to those of `cells`, which has as many as p.
  void write(const Problem& p, const std::vector<std::int64_t>& cells, std::int64_t begin,
             std::int64_t n) {
    const ContextPtr context = make_context();
    ggml_context* c = context.get();
    ggml_tensor* where = ggml_new_tensor_1d(c, GGML_TYPE_I64, n);
    ggml_tensor* k = ggml_new_tensor_2d(c, GGML_TYPE_F32, row_size(), n);
    ggml_tensor* v = ggml_new_tensor_2d(c, GGML_TYPE_F32, row_size(), n);
    ggml_cgraph* graph = ggml_new_graph(c);
    ggml_build_forward_expand(graph, ggml_set_rows(c, k_, k, where));
    ggml_build_forward_expand(graph, ggml_set_rows(c, v_, v, where));
    const BufferPtr buffer = allocate(context, ggml_backend_cpu_buffer_type());
    ggml_backend_tensor_set(where, cells.data() + begin, 0, n * sizeof(std::int64_t));
    ggml_backend_tensor_set(k, p.k.data() + begin * row_size(), 0, n * row_size() * sizeof(float));
    ggml_backend_tensor_set(v, p.v.data() + begin * row_size(), 0, n * row_size() * sizeof(float));
    ASSERT_EQ(cpu_.compute(graph), GGML_STATUS_SUCCESS);
  }

  /// What p's rows get, cell i of theirs being cells[i].
  std::vector<float> attend(const Problem& p, const std::vector<std::int64_t>& cells) {
    const ContextPtr context = make_context();
    ggml_context* c = context.get();
    const std::int64_t n_cells = k_->ne[1];
    ggml_tensor* q = ggml_new_tensor_3d(c, GGML_TYPE_F32, heads_.k_size, heads_.n_heads, p.n_rows);
    ggml_tensor* mask = ggml_new_tensor_2d(c, GGML_TYPE_F16, n_cells, p.n_rows);
    const auto by_head = [&](ggml_tensor* t) {
      return ggml_permute(c, ggml_reshape_3d(c, t, heads_.k_size, heads_.n_kv_heads, n_cells), 0, 2,
                          1, 3);
    };
    ggml_tensor* out = ggml_flash_attn_ext(c, ggml_permute(c, q, 0, 2, 1, 3), by_head(k_),
                                           by_head(v_), mask, p.scale, 0, 0);
    ggml_cgraph* graph = ggml_new_graph(c);
    ggml_build_forward_expand(graph, out);
    const BufferPtr buffer = allocate(context, ggml_backend_cpu_buffer_type());
    std::vector<float> shown(p.n_rows * n_cells, -INFINITY);
    for (std::int64_t i = 0; i < p.n_rows * p.n_cells; ++i) {
      if (p.mask[i] == 0) shown[i / p.n_cells * n_cells + cells[i % p.n_cells]] = 0;
    }
    ggml_backend_tensor_set(q, p.q.data(), 0, p.q.size() * sizeof(float));
    ggml_backend_tensor_set(mask, halves(shown).data(), 0, shown.size() * 2);
    EXPECT_EQ(cpu_.compute(graph), GGML_STATUS_SUCCESS);
    std::vector<float> result(p.n_rows * heads_.n_heads * heads_.v_size);
    ggml_backend_tensor_get(out, result.data(), 0, result.size() * sizeof(float));
    return result;
  }

 private:
  std::int64_t row_size() const { return heads_.n_kv_heads * heads_.k_size; }

  Heads heads_;
  Cpu& cpu_;
  ContextPtr context_;
  BufferPtr buffer_{nullptr, &ggml_backend_buffer_free};
  ggml_tensor *k_, *v_;
};

TEST(CellOrder, WhereCellsLieDoesNotMatterToAttention) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(2);
  constexpr std::int64_t kCells = 700;
  Cpu cpu(Mode::kFast, 2);
  Cache cache({}, kCells, cpu);
  for (int round = 0; round < 12; ++round) {
    const Problem p =
        round % 2 ? shared_prefix({}, 8, 1, 200, 500, random) : causal({}, 300, 1 + round, random);
    const auto cells = some(all_of(kCells), p.n_cells, random);
    for (std::int64_t begin = 0; begin < p.n_cells; begin += 100) {
      cache.write(p, cells, begin, std::min<std::int64_t>(100, p.n_cells - begin));
    }
    const std::vector<float> out = cache.attend(p, cells);
    expect_close(p, out);
    ASSERT_EQ(out, attend(p, cpu)) << "as they lie one after the other; round " << round;
  }
}

TEST(CellOrder, ScatteredCellsThatAreSharedAreReadTogether) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  constexpr int kRows = 4;
  constexpr std::int64_t kCells = 1024, kShared = 256, kOwn = 64;
  std::mt19937 random(3);
  const auto cells = some(all_of(kCells), kShared + kRows * kOwn, random);
  std::vector<std::uint16_t> mask(kRows * kCells, 0xfc00);
  for (std::int64_t i = 0; i < kRows; ++i) {
    for (std::int64_t c = 0; c < kShared; ++c) mask[i * kCells + cells[c]] = 0;
    for (std::int64_t c = 0; c < kOwn; ++c) mask[i * kCells + cells[kShared + i * kOwn + c]] = 0;
  }
  ggml_tensor shown{};
  shown.data = mask.data();
  shown.nb[1] = kCells * sizeof mask[0];
  CellOrder order;
  ASSERT_TRUE(order.reserve(kCells));
  order.write(cells.data(), static_cast<std::int64_t>(cells.size()));
  std::vector<std::byte> memory(VisibleBlocks(nullptr, kRows, kCells, kRows, &order).bytes());
  const auto n_blocks = [&](const CellOrder* in_order) {
    const VisibleBlocks blocks(memory.data(), kRows, kCells, kRows, in_order);
    blocks.build(0, shown, *best_kernels());
    return blocks.tile(0).n_blocks;
  };
  EXPECT_EQ(n_blocks(&order), kShared / kBlockCells + kRows);
  EXPECT_GT(n_blocks(nullptr), 3 * kRows);
}

}  // namespace
}  // namespace llamaherd::kernels

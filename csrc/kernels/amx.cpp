#include "kernel_table.h"

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "byte_tile_kernel.h"
#include "tile_kernel.h"

namespace llamaherd::kernels {
namespace {

/// Rows of all experts' inputs lie anywhere.
bool at_equal_distances(const void* const* x, std::int64_t n) {
  const auto at = [&](std::int64_t i) { return static_cast<const std::byte*>(x[i]); };
  for (std::int64_t i = 2; i < n; ++i) {
    if (at(i) - at(i - 1) != at(1) - at(0)) return false;
  }
  return true;
}

template <Layout L>
void multiply_bytes(const Product& p) {
  if (p.n_rows < kLeastRows || !at_equal_distances(p.x, p.n_rows)) {
    return multiply_quantized<Avx512, L>(p);
  }
  MultiplyBytes<L>(p).run();
}

void multiply_quantized_in_tiles(const Product& p) {
  switch (p.type) {
    case GGML_TYPE_Q4_0:
      return multiply_bytes<kLayoutQ4_0>(p);
    case GGML_TYPE_Q4_1:
      return multiply_bytes<kLayoutQ4_1>(p);
    case GGML_TYPE_Q5_0:
      return multiply_bytes<kLayoutQ5_0>(p);
    case GGML_TYPE_Q5_1:
      return multiply_bytes<kLayoutQ5_1>(p);
    case GGML_TYPE_Q8_0:
      return multiply_bytes<kLayoutQ8_0>(p);
    case GGML_TYPE_Q4_K:
      return multiply_bytes<kLayoutQ4_K>(p);
    case GGML_TYPE_Q5_K:
      return multiply_bytes<kLayoutQ5_K>(p);
    default:  // Q6_K has two scales in a block
      return avx512_kernels()->multiply(p);
  }
}

void multiply_in_tiles(const Product& p) {
  switch (p.type) {
    case GGML_TYPE_F16:
      return MultiplySplit<GGML_TYPE_F16>(p).run();
    case GGML_TYPE_BF16:
      return MultiplySplit<GGML_TYPE_BF16>(p).run();
    default:
      return multiply_quantized_in_tiles(p);
  }
}

std::size_t byte_scratch_bytes(int type) {
  return ggml_is_quantized(static_cast<ggml_type>(type)) ? kByteScratchBytes : 0;
}

std::size_t scratch_bytes(int type) {
  const bool splits = type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
  return splits ? kSplitScratchBytes : byte_scratch_bytes(type);
}

KernelTable with_byte_tiles(KernelTable table) {
  table.name = "amx_int8";
  table.multiply = multiply_quantized_in_tiles;
  table.scratch_bytes = byte_scratch_bytes;
  return table;
}

KernelTable with_all_tiles(KernelTable table) {
  table.name = "amx_bf16";
  table.split = split;
  table.multiply = multiply_in_tiles;
  table.scratch_bytes = scratch_bytes;
  return table;
}

}  // namespace

const KernelTable* amx_int8_kernels() {
  if (!avx512_kernels()) return nullptr;
  static const KernelTable table = with_byte_tiles(*avx512_kernels());
  return &table;
}

const KernelTable* amx_bf16_kernels() {
  if (!avx512_kernels()) return nullptr;
  static const KernelTable table = with_all_tiles(*avx512_kernels());
  return &table;
}

}  // namespace llamaherd::kernels
#else
namespace llamaherd::kernels {
const KernelTable* amx_int8_kernels() { return nullptr; }
const KernelTable* amx_bf16_kernels() { return nullptr; }
}  // namespace llamaherd::kernels
#endif

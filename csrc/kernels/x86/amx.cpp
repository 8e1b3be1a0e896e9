#include "kernels/common/kernel_table.h"

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "kernels/x86/amx_bf16_kernel.h"
#include "kernels/x86/amx_int8_kernel.h"

namespace llamaherd::kernels {
namespace {

/// Excludes Q6_K, which has two scales per block.
bool has_byte_tiles(int type) {
  return ggml_is_quantized(static_cast<ggml_type>(type)) && type != GGML_TYPE_Q6_K;
}

void multiply_bytes(const MatmulTask& p) {
  const std::int64_t n_tiled = has_byte_tiles(p.type) ? rows_in_tiles(p.n_rows) : 0;
  const std::int64_t stride = n_tiled > 0 ? stride_of(p.x, n_tiled) : 0;
  if (stride <= 0) return avx512_kernels()->multiply(p);
  MatmulTask tiled = p;
  tiled.n_rows = n_tiled;
  with_layout(p.type, [&]<Layout L>() {
    if constexpr (L.n_scales == 1) MultiplyBytes<L>(tiled, stride).run();
  });
  if (n_tiled == p.n_rows) return;
  MatmulTask rest = p;
  rest.x += n_tiled;
  rest.out += n_tiled;
  rest.n_rows -= n_tiled;
  avx512_kernels()->multiply(rest);
}

void multiply_bytes_and_floats(const MatmulTask& p) {
  switch (p.type) {
    case GGML_TYPE_F16:
      return MultiplySplit<GGML_TYPE_F16>(p).run();
    case GGML_TYPE_BF16:
      return MultiplySplit<GGML_TYPE_BF16>(p).run();
    default:
      return multiply_bytes(p);
  }
}

std::size_t byte_scratch(int type) { return has_byte_tiles(type) ? kByteScratchBytes : 0; }

std::size_t byte_and_float_scratch(int type) {
  const bool splits = type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
  return splits ? kSplitScratchBytes : byte_scratch(type);
}

KernelTable with_byte_tiles(KernelTable table) {
  table.name = "amx_int8";
  table.multiply = multiply_bytes;
  table.scratch_bytes = byte_scratch;
  return table;
}

KernelTable with_all_tiles(KernelTable table) {
  table.name = "amx_bf16";
  table.split = split;
  table.multiply = multiply_bytes_and_floats;
  table.scratch_bytes = byte_and_float_scratch;
  return table;
}

/// Kernel tables derived from the table without tiles, one per `make`.
template <KernelTable (*make)(KernelTable)>
const KernelTable* made() {
  if (!avx512_kernels()) return nullptr;
  static const KernelTable table = make(*avx512_kernels());
  return &table;
}

}  // namespace

const KernelTable* amx_int8_kernels() { return made<with_byte_tiles>(); }
const KernelTable* amx_bf16_kernels() { return made<with_all_tiles>(); }

}  // namespace llamaherd::kernels
#else
namespace llamaherd::kernels {
const KernelTable* amx_int8_kernels() { return nullptr; }
const KernelTable* amx_bf16_kernels() { return nullptr; }
}  // namespace llamaherd::kernels
#endif

#include "kernel_table.h"

#if defined(__AMX_BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "tile_kernel.h"

namespace llamaherd::kernels {
namespace {

void multiply(const Product& p) {
  switch (p.type) {
    case GGML_TYPE_F16:
      return MultiplySplit<GGML_TYPE_F16>(p).run();
    case GGML_TYPE_BF16:
      return MultiplySplit<GGML_TYPE_BF16>(p).run();
    default:
      return avx512_kernels()->multiply(p);
  }
}

KernelTable with_tiles(KernelTable table) {
  table.name = "amx_bf16";
  table.split = split;
  table.multiply = multiply;
  return table;
}

}  // namespace

const KernelTable* amx_kernels() {
  if (!avx512_kernels()) return nullptr;
  static const KernelTable table = with_tiles(*avx512_kernels());
  return &table;
}

}  // namespace llamaherd::kernels
#else
namespace llamaherd::kernels {
const KernelTable* amx_kernels() { return nullptr; }
}  // namespace llamaherd::kernels
#endif

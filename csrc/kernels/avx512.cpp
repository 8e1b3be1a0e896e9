#include "kernel_table.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "attention_kernel.h"
#include "matmul_kernel.h"
#include "simd_avx512.h"

namespace llamaherd::kernels {

const KernelTable* avx512_kernels() {
  static constexpr KernelTable table{
      "avx512_vnni",         quantize<Avx512>, multiply<Avx512>,
      visible_cells<Avx512>, attend<Avx512>,   merge_blocks<Avx512>,
  };
  return &table;
}

}  // namespace llamaherd::kernels
#else
namespace llamaherd::kernels {
const KernelTable* avx512_kernels() { return nullptr; }
}  // namespace llamaherd::kernels
#endif

#include "kernel_table.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "attention_kernel.h"
#include "matmul_kernel.h"
#include "simd_avx2.h"

namespace llamaherd::kernels {

const KernelTable* avx2_kernels() {
  static constexpr KernelTable table{
      "avx2", quantize<Avx2>, multiply<Avx2>, visible_cells<Avx2>, attend<Avx2>, merge_blocks<Avx2>,
  };
  return &table;
}

}  // namespace llamaherd::kernels
#else
namespace llamaherd::kernels {
const KernelTable* avx2_kernels() { return nullptr; }
}  // namespace llamaherd::kernels
#endif

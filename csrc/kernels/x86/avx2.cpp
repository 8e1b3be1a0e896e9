#include "kernels/common/kernel_table.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "kernels/x86/kernel_instance.h"
#include "kernels/x86/simd_avx2.h"

namespace llamaherd::kernels {

const KernelTable* avx2_kernels() {
  static constexpr KernelTable table = kernels_over<Avx2>("avx2");
  return &table;
}

}  // namespace llamaherd::kernels
#else
namespace llamaherd::kernels {
const KernelTable* avx2_kernels() { return nullptr; }
}  // namespace llamaherd::kernels
#endif

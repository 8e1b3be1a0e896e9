#include "kernels/common/kernel_table.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "kernels/x86/kernel_instance.h"
#include "kernels/x86/simd_avx512.h"

namespace llamaherd::kernels {

const KernelTable* avx512_kernels() {
  static constexpr KernelTable table = kernels_over<Avx512>("avx512_vnni");
  return &table;
}

}  // namespace llamaherd::kernels
#else
namespace llamaherd::kernels {
const KernelTable* avx512_kernels() { return nullptr; }
}  // namespace llamaherd::kernels
#endif

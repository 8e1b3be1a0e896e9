#include "kernels/common/kernel_table.h"

#if defined(__AVXVNNI__) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "kernels/x86/kernel_instance.h"
#include "kernels/x86/simd_avx_vnni.h"

namespace llamaherd::kernels {

const KernelTable* avx_vnni_kernels() {
  static constexpr KernelTable table = kernels_over<AvxVnni>("avx_vnni");
  return &table;
}

}  // namespace llamaherd::kernels
#else
namespace llamaherd::kernels {
const KernelTable* avx_vnni_kernels() { return nullptr; }
}  // namespace llamaherd::kernels
#endif

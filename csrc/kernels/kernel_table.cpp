#include "kernel_table.h"

#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace llamaherd::kernels {
namespace {

#if defined(__x86_64__)
/// The compilers' own question about AVX-VNNI is newer than the instructions.
bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1) == 1;
}
#endif

const KernelTable* choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  const char* variable = std::getenv("LLAMAHERD_CPU_ISA");
  const std::string most = variable ? variable : "";
  const bool only_avx2 = most == "avx2", only_avx = only_avx2 || most == "avx_vnni";
  if (avx512 && !only_avx && avx512_kernels()) return avx512_kernels();
  if (avx2 && !only_avx2 && has_avx_vnni() && avx_vnni_kernels()) return avx_vnni_kernels();
  if (avx2 && avx2_kernels()) return avx2_kernels();
#endif
  return nullptr;
}

}  // namespace

const KernelTable* best_kernels() {
  static const KernelTable* const best = choose();
  return best;
}

}  // namespace llamaherd::kernels

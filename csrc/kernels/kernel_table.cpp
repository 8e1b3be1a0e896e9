#include "kernel_table.h"

#include <cstdlib>
#include <cstring>

namespace llamaherd::kernels {
namespace {

const KernelTable* choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  const char* most = std::getenv("LLAMAHERD_CPU_ISA");
  const bool is_bounded = most && std::strcmp(most, "avx2") == 0;
  if (avx512 && !is_bounded && avx512_kernels()) return avx512_kernels();
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

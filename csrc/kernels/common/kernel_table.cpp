#include "kernels/common/kernel_table.h"

#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace llamaherd::kernels {
namespace {

#if defined(__x86_64__)
/// Uses CPUID directly: older compilers lack __builtin_cpu_supports() for these extensions.
bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1) == 1;
}

/// AMX tiles, with bytes and BF16.
bool has_amx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx >> 22 & 1) == 1 &&
         (edx >> 24 & 1) == 1 && (edx >> 25 & 1) == 1;
}

/// Linux saves tile registers only for processes that requested it, and may refuse.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

const KernelTable* choose(BatchProfile calls) {
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
  const bool all_tiles = most == "amx_bf16" || (most.empty() && calls == BatchProfile::kManyRows);
  const bool byte_tiles = most == "amx_int8" || most.empty();
  if (avx512 && (all_tiles || byte_tiles) && has_amx() && may_use_tiles()) {
    const KernelTable* kernels = all_tiles ? amx_bf16_kernels() : amx_int8_kernels();
    if (kernels) return kernels;
  }
  if (avx512 && !only_avx && avx512_kernels()) return avx512_kernels();
  if (avx2 && !only_avx2 && has_avx_vnni() && avx_vnni_kernels()) return avx_vnni_kernels();
  if (avx2 && avx2_kernels()) return avx2_kernels();
#endif
  return nullptr;
}

}  // namespace

const KernelTable* best_kernels(BatchProfile calls) {
  static const KernelTable* const few = choose(BatchProfile::kFewRows);
  static const KernelTable* const many = choose(BatchProfile::kManyRows);
  return calls == BatchProfile::kManyRows ? many : few;
}

}  // namespace llamaherd::kernels

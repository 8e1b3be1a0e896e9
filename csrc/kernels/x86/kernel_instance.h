#pragma once

#include "kernels/attention/attention_kernel.h"
#include "kernels/common/kernel_table.h"
#include "kernels/matmul/matmul_kernel.h"

namespace llamaherd::kernels {
namespace {

/// All kernels, instantiated for the vectors of S.
template <class S>
constexpr KernelTable kernels_over(const char* name) {
  return {name, quantize<S>, nullptr, multiply<S>, visible_cells<S>, attend<S>, merge_blocks<S>};
}

}  // namespace
}  // namespace llamaherd::kernels

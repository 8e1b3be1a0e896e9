#include "llama/chat/nested_stack.h"

#include "llama/common/deep_stack.h"

namespace llamaherd {
namespace {

constexpr std::size_t kBytesOfLevel = 8192;
constexpr std::size_t kLevelsOfAnyStack = 32;

}  // namespace

void run_nested(std::size_t n_levels, const std::function<void()>& work) {
  if (n_levels <= kLevelsOfAnyStack) {
    work();
  } else {
    run_on_stack((n_levels + kLevelsOfAnyStack) * kBytesOfLevel, work);
  }
}

}  // namespace llamaherd

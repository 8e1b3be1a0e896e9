#include "llama/chat/template_budget.h"

#include <cstddef>
#include <stdexcept>

namespace llamaherd {
namespace {

constexpr double kSeconds = 10;
constexpr std::ptrdiff_t kStackBytes = 1 << 20;
constexpr std::uint32_t kStepsPerLook = 256;  // reading the clock is a system call

thread_local TemplateBudget* budget = nullptr;

std::timespec processor_time() {
  std::timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time;
}

}  // namespace

TemplateBudget::TemplateBudget()
    : stack_(static_cast<const char*>(__builtin_frame_address(0))), begin_(processor_time()) {
  budget = this;
}
TemplateBudget::~TemplateBudget() { budget = nullptr; }

void TemplateBudget::count_step() {
  const auto* here = static_cast<const char*>(__builtin_frame_address(0));
  if (stack_ - here > kStackBytes || here - stack_ > kStackBytes) {
    throw std::runtime_error("the chat template recurses too deeply");
  }
  if (++n_steps_ % kStepsPerLook != 0) return;
  const std::timespec now = processor_time();
  const double seconds = static_cast<double>(now.tv_sec - begin_.tv_sec) +
                         static_cast<double>(now.tv_nsec - begin_.tv_nsec) * 1e-9;
  if (seconds > kSeconds) {
    throw std::runtime_error("the chat template runs for more than 10 seconds");
  }
}

void count_template_step() {
  if (budget) budget->count_step();
}

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <ctime>

namespace llamaherd {

/// Limits the CPU time and stack of chat templates on the current thread during its lifetime.
/// Beyond a limit count_template_step() throws std::runtime_error.
class TemplateBudget {
 public:
  TemplateBudget();
  ~TemplateBudget();
  TemplateBudget(const TemplateBudget&) = delete;
  TemplateBudget& operator=(const TemplateBudget&) = delete;

  void count_step();

 private:
  const char* stack_;
  std::timespec begin_;
  std::uint32_t n_steps_ = 0;
};

/// Called for every step of llama.cpp's Jinja engine: see template_steps.h.
void count_template_step();

}  // namespace llamaherd

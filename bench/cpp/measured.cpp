// In a file of its own, so that the compiler cannot inline or split it.

#include "measured.h"

void measured(const std::function<void()>& work) {
  work();
  asm volatile("" ::: "memory");  // prevents a tail call, which callgrind would miss
}

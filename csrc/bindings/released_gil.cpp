#include "bindings/released_gil.h"

#include <chrono>
#include <thread>

namespace llamaherd {

ReleasedGil::~ReleasedGil() {
  try {
    PyEval_RestoreThread(thread_);
  } catch (...) {  // not a C++ exception; leaving the destructor would call std::terminate
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

}  // namespace llamaherd

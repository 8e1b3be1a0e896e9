#pragma once
#include <Python.h>

namespace llamaherd {

/// Releases the GIL for a scope. Before Python 3.14, acquiring the GIL during interpreter shutdown
/// exits the thread by unwinding its stack, which in a destructor aborts the process. Here the
/// thread blocks instead, as in newer versions.
class ReleasedGil {
 public:
  ReleasedGil() : thread_(PyEval_SaveThread()) {}
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;
  ~ReleasedGil();

 private:
  PyThreadState* const thread_;
};

}  // namespace llamaherd

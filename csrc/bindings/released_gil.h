#pragma once
#include <Python.h>

namespace llamaherd {

/// Without Python's lock until the end of the scope. Before Python 3.14, taking the lock in an
/// interpreter that ends exits the thread by unwinding its stack, which at a destructor aborts the
/// process; here the thread waits for the end instead, as in newer ones.
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

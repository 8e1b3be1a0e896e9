#include "llama/common/deep_stack.h"

#include <pthread.h>

#include <cstring>
#include <exception>
#include <string>

#include "common/error.h"

namespace llamaherd {
namespace {

struct Task {
  const std::function<void()>& work;
  std::exception_ptr error = nullptr;
};

void* run(void* data) {
  auto& task = *static_cast<Task*>(data);
  try {
    task.work();
  } catch (...) {
    task.error = std::current_exception();
  }
  return nullptr;
}

}  // namespace

void run_on_stack(std::size_t n_bytes, const std::function<void()>& work) {
  Task task{work};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, n_bytes);
  pthread_t thread;
  const int failed = pthread_create(&thread, &attributes, run, &task);
  pthread_attr_destroy(&attributes);
  if (failed) {
    throw LlamaHerdError("cannot start a thread with a stack of " + std::to_string(n_bytes) +
                         " bytes: " + std::strerror(failed));
  }
  pthread_join(thread, nullptr);
  if (task.error) std::rethrow_exception(task.error);
}

}  // namespace llamaherd

#include "llama/backend/context.h"

#include "common/error.h"
#include "llama/common/abort_guard.h"
#include "llama/common/log_sink.h"

namespace llamaherd {

ContextPtr make_context(const LlamaModel& model, const llama_context_params& params,
                        const ThreadPool& threads) {
  const log_sink::ErrorCapture errors;
  const AbortGuard guard;
  ContextPtr context;
  try {
    context.reset(llama_init_from_model(model.get(), params));
  } catch (const std::exception& error) {
    throw ModelLoadError(std::string("cannot create a context: ") + error.what());
  }
  if (!context) {
    throw ModelLoadError("cannot create a context of n_ctx " + std::to_string(params.n_ctx) + ": " +
                         errors.text());
  }
  llama_attach_threadpool(context.get(), threads.get(), threads.get());
  return context;
}

}  // namespace llamaherd

#pragma once

#include <memory>
#include <string>

#include "llama.h"
#include "llama/common/thread_pool.h"
#include "llama/model/llama_model.h"

namespace llamaherd {

struct FreeContext {
  void operator()(llama_context* context) const {
    llama_detach_threadpool(context);
    llama_free(context);
  }
};
struct FreeBatch {
  void operator()(llama_batch_ext* batch) const { llama_batch_ext_free(batch); }
};
using ContextPtr = std::unique_ptr<llama_context, FreeContext>;
using BatchPtr = std::unique_ptr<llama_batch_ext, FreeBatch>;

/// Creates a context that computes on `threads`, which must outlive it. Throws ModelLoadError.
ContextPtr make_context(const LlamaModel& model, const llama_context_params& params,
                        const ThreadPool& threads);

}  // namespace llamaherd

#pragma once

struct ggml_threadpool;

namespace llamaherd::kernels {

/// Puts our kernels in front of ggml's own CPU kernels, for the whole process. Every later graph
/// node is offered to them; they take it only if its thread pool asked for them. Idempotent; call
/// before the first model is loaded.
void install_hook();

/// Graphs computed on `pool` use the reference kernels until forget() is called.
void use_reference(ggml_threadpool* pool);
void forget(ggml_threadpool* pool);

}  // namespace llamaherd::kernels

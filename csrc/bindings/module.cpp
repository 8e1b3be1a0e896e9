#include "bindings/bindings.h"
#include "llama.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "llamaherd's engine. Private: use the names that the package llamaherd exports.";
  m.attr("__version__") = LLAMAHERD_VERSION;
  m.attr("llama_cpp_version") = llama_version();
  m.attr("llama_cpp_commit") = LLAMAHERD_LLAMA_COMMIT;
  llamaherd::bind_errors(m);
  llamaherd::bind_params(m);
  llamaherd::bind_results(m);
  llamaherd::bind_llama(m);
  llamaherd::bind_testing(m);
  llamaherd::bind_chat(m);
  llamaherd::bind_engine(m);
  llamaherd::bind_embedder(m);
  llamaherd::bind_process(m);
}

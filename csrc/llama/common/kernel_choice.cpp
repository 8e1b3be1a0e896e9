#include "llama/common/kernel_choice.h"

#include <cstdlib>

#include "common/error.h"
#include "kernels/ggml/ggml_hook.h"

namespace llamaherd {
namespace {

constexpr const char* kVariable = "LLAMAHERD_CPU_KERNELS";

}  // namespace

kernels::Mode choose_kernels(const EngineConfig& config) {
  if (config.deterministic) return kernels::Mode::kReference;
  const char* variable = std::getenv(kVariable);
  const std::string name = variable && *variable ? variable : config.cpu_kernels;
  if (name == "stock") return kernels::Mode::kStock;
  if (name == "reference") return kernels::Mode::kReference;
  if (name != "auto") {
    throw InvalidRequestError(std::string(kVariable) + " must be auto, stock or reference; got '" +
                              name + "'");
  }
  return !kernels::fast_kernels().empty() ? kernels::Mode::kFast : kernels::Mode::kStock;
}

std::string kernels_name(const EngineConfig& config) {
  switch (choose_kernels(config)) {
    case kernels::Mode::kStock:
      return "stock";
    case kernels::Mode::kReference:
      return "reference";
    default:
      return kernels::fast_kernels();
  }
}

}  // namespace llamaherd

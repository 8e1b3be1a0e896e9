#include "llama/model/quantize.h"

#include <array>
#include <cstdio>
#include <filesystem>

#include "common/error.h"
#include "llama.h"
#include "llama/common/abort_guard.h"
#include "llama/common/devices.h"
#include "llama/common/log_sink.h"
#include "llama/model/gguf_check.h"

namespace llamaherd {
namespace {

struct NamedType {
  const char* name;
  llama_ftype type;
};
constexpr std::array kTypes = {
    NamedType{"f32", LLAMA_FTYPE_ALL_F32},          NamedType{"f16", LLAMA_FTYPE_MOSTLY_F16},
    NamedType{"bf16", LLAMA_FTYPE_MOSTLY_BF16},     NamedType{"q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},
    NamedType{"q6_k", LLAMA_FTYPE_MOSTLY_Q6_K},     NamedType{"q5_k_m", LLAMA_FTYPE_MOSTLY_Q5_K_M},
    NamedType{"q5_k_s", LLAMA_FTYPE_MOSTLY_Q5_K_S}, NamedType{"q5_1", LLAMA_FTYPE_MOSTLY_Q5_1},
    NamedType{"q5_0", LLAMA_FTYPE_MOSTLY_Q5_0},     NamedType{"q4_k_m", LLAMA_FTYPE_MOSTLY_Q4_K_M},
    NamedType{"q4_k_s", LLAMA_FTYPE_MOSTLY_Q4_K_S}, NamedType{"q4_1", LLAMA_FTYPE_MOSTLY_Q4_1},
    NamedType{"q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},     NamedType{"q3_k_m", LLAMA_FTYPE_MOSTLY_Q3_K_M},
    NamedType{"q2_k", LLAMA_FTYPE_MOSTLY_Q2_K},
};

}  // namespace

std::vector<std::string> quantization_types() {
  std::vector<std::string> names;
  for (const NamedType& type : kTypes) names.push_back(type.name);
  return names;
}

void quantize(const std::string& source, const std::string& target, const std::string& type,
              std::int32_t n_threads) {
  init_llama();
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.nthread = n_threads;
  params.allow_requantize = true;
  bool known = false;
  for (const NamedType& entry : kTypes) {
    if (type != entry.name) continue;
    params.ftype = entry.type;
    known = true;
  }
  if (!known) throw InvalidRequestError("unknown quantization type '" + type + "'");
  std::error_code ignored;
  if (std::filesystem::equivalent(source, target, ignored)) {
    throw InvalidRequestError("quantize cannot write over its source " + source);
  }
  check_gguf(source);
  const std::string partial = target + ".partial";
  const log_sink::ErrorCapture errors;
  const AbortGuard guard;
  std::string failure;
  try {
    if (llama_model_quantize(source.c_str(), partial.c_str(), &params) != 0)
      failure = errors.text();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  if (failure.empty()) {
    std::filesystem::rename(partial, target);
    return;
  }
  std::filesystem::remove(partial, ignored);
  throw ModelLoadError("cannot quantize " + source + ": " + failure);
}

}  // namespace llamaherd

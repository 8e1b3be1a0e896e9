#include "llama/model/gguf_check.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "ggml-cpu.h"
#include "ggml.h"
#include "llama-arch.h"
#include "llama.h"
#include "llama/common/abort_guard.h"
#include "llama/model/gguf_file.h"
#include "llama/model/load_rule.h"
#include "llama/model/tokenizer_check.h"

namespace llamaherd {
namespace {

constexpr std::int64_t kMaxBlocks = 512;  // LLAMA_MAX_LAYERS
constexpr std::int64_t kMaxParts = 10000;
constexpr int kMaxTensorKinds = 1024;  // more than llm_tensor has
constexpr std::size_t kLeastAlignment = 8, kMostAlignment = 1 << 20;

/// Valid range of a hyperparameter.
struct Range {
  const char* name;  // without the architecture's prefix
  std::int64_t least, most;
};

// Values that llama.cpp uses as divisors, sizes or loop bounds. (Wide ranges, as most must also
// match a tensor's shape.)
constexpr Range kRanges[] = {
    {"block_count", 1, kMaxBlocks},
    {"context_length", 1, 1 << 30},
    {"embedding_length", 1, 1 << 20},
    {"embedding_length_out", 0, 1 << 20},
    {"embedding_length_per_layer_input", 0, 1 << 20},
    {"feed_forward_length", 0, 1 << 24},
    {"vocab_size", 0, 1 << 24},
    {"attention.head_count", 0, 1 << 14},
    {"attention.head_count_kv", 0, 1 << 14},
    {"attention.key_length", 1, 1 << 14},
    {"attention.value_length", 1, 1 << 14},
    {"attention.key_length_swa", 1, 1 << 14},
    {"attention.value_length_swa", 1, 1 << 14},
    {"attention.group_norm_groups", 1, 1 << 14},
    {"attention.output_group_count", 1, 1 << 14},
    {"attention.indexer.block_size", 1, 1 << 20},
    {"rope.dimension_count", 0, 1 << 14},
    {"rope.dimension_count_swa", 0, 1 << 14},
    {"rope.dimension_sections", 0, 1 << 14},
    {"expert_count", 0, 1024},
    {"expert_used_count", 0, 1024},
    {"expert_group_count", 0, 1024},
    {"expert_group_used_count", 0, 1024},
    {"expert_gating_func", 0, 4},
    {"experts_per_group", 1, 1024},
    {"nextn_predict_layers", 0, kMaxBlocks},
    {"leading_dense_block_count", 0, kMaxBlocks},
    {"full_attention_interval", 1, kMaxBlocks},
    {"moe_every_n_layers", 0, kMaxBlocks},
    {"num_loops", 1, 64},
    {"hrm.h_cycles", 0, 64},
    {"hrm.l_cycles", 0, 64},
    {"ssm.conv_kernel", 1, 1 << 10},
    {"ssm.inner_size", 1, 1 << 20},
    {"ssm.state_size", 1, 1 << 14},
    {"ssm.time_step_rank", 1, 1 << 16},
    {"ssm.group_count", 0, 1 << 14},
    {"shortconv.l_cache", 1, 1 << 10},
    {"wkv.head_size", 1, 1 << 14},
    {"kda.head_dim", 1, 1 << 14},
    {"token_shift_count", 1, 16},
    {"conv_group_size", 1, 1 << 20},
};

/// Range of all other counts, sizes and indices.
constexpr Range kAnyInteger = {"", -1, INT32_MAX};

Range range_of(const std::string& name) {
  const auto* at = std::ranges::find(kRanges, name, &Range::name);
  return at == std::end(kRanges) ? kAnyInteger : *at;
}

bool is_wide(gguf_type type) { return type == GGUF_TYPE_UINT64 || type == GGUF_TYPE_INT64; }

gguf_type element_type(const gguf_context* gguf, std::int64_t i) {
  const gguf_type type = gguf_get_kv_type(gguf, i);
  return type == GGUF_TYPE_ARRAY ? gguf_get_arr_type(gguf, i) : type;
}

void check_float(const std::string& key, float value) {
  require_rule(std::isfinite(value), "the value of " + key + " must be finite");
  if (key.ends_with("epsilon")) {
    require_rule(value > 0 && value < 1,
                 key + " must be above 0 and below 1; it is " + std::to_string(value));
  }
}

/// Checks one key-value pair of the architecture.
void check_hyperparameter(const GgufFile& file, std::int64_t i, const std::string& name) {
  const gguf_context* gguf = file.get();
  const std::string key = gguf_get_key(gguf, i);
  const gguf_type type = element_type(gguf, i);
  if (type == GGUF_TYPE_FLOAT32) {
    const bool is_array = gguf_get_kv_type(gguf, i) == GGUF_TYPE_ARRAY;
    const std::size_t n = is_array ? gguf_get_arr_n(gguf, i) : 1;
    const auto* values = static_cast<const float*>(is_array ? gguf_get_arr_data(gguf, i)
                                                            : gguf_get_val_data(gguf, i));
    for (std::size_t k = 0; k < n; ++k) check_float(key, values[k]);
  } else if (type != GGUF_TYPE_STRING && type != GGUF_TYPE_BOOL && !is_wide(type)) {
    const Range range = range_of(name);
    const auto values = file.integers(key);
    if (!values) return;
    for (const std::int64_t value : *values) {
      require_rule(value >= range.least && value <= range.most,
                   key + " must be in [" + std::to_string(range.least) + ", " +
                       std::to_string(range.most) + "]; it is " + std::to_string(value));
    }
  }
}

void check_hyperparameters(const GgufFile& file) {
  const std::optional<std::string> architecture = file.text("general.architecture");
  require_rule(architecture.has_value(), "general.architecture is missing or not a string");
  const llm_arch arch = llm_arch_from_string(*architecture);
  require_rule(arch != LLM_ARCH_UNKNOWN, "unknown model architecture: " + in_quotes(*architecture));
  const std::string prefix = *architecture + ".";
  for (std::int64_t i = 0; i < gguf_get_n_kv(file.get()); ++i) {
    const std::string key = gguf_get_key(file.get(), i);
    if (key.starts_with(prefix)) check_hyperparameter(file, i, key.substr(prefix.size()));
  }
  const auto heads = file.integers(prefix + "attention.head_count");
  const bool may_lack_heads =
      llm_arch_is_recurrent(arch) || llm_arch_is_hybrid(arch) || arch == LLM_ARCH_DECI;
  require_rule(may_lack_heads || (heads && !heads->empty() && heads->front() > 0),
               prefix + "attention.head_count must be at least 1");
  const std::string step = prefix + "interleave_moe_layer_step";
  const auto steps = file.integers(step);
  require_rule(!steps || arch == LLM_ARCH_LLAMA4 ||
                   std::ranges::all_of(*steps, [](auto n) { return n > 0; }),
               step + " must be at least 1");
}

/// How llama.cpp uses the tensors of each name; layer numbers are replaced by -1.
const std::map<std::string, std::set<ggml_op>>& tensor_uses() {
  static const std::map<std::string, std::set<ggml_op>> uses = [] {
    const AbortGuard guard;  // for tensors without a name
    std::map<std::string, std::set<ggml_op>> all;
    for (int t = 0; t < kMaxTensorKinds; ++t) {
      const auto tensor = static_cast<llm_tensor>(t);
      try {
        const ggml_op op = llm_tensor_info_for(tensor).op;
        all[LLM_TN_IMPL(LLM_ARCH_UNKNOWN, tensor, nullptr, -1, -1).str()].insert(op);
      } catch (const std::exception&) {
        continue;
      }
    }
    return all;
  }();
  return uses;
}

/// Splits blk.7.attn_q.weight into blk.-1.attn_q and weight.
std::pair<std::string, std::string> split_name(const std::string& name) {
  std::string pattern;
  for (std::size_t i = 0; i < name.size();) {
    const bool begins_number =
        std::isdigit(static_cast<unsigned char>(name[i])) && i > 0 && name[i - 1] == '.';
    if (!begins_number) {
      pattern += name[i++];
      continue;
    }
    pattern += "-1";
    while (i < name.size() && std::isdigit(static_cast<unsigned char>(name[i]))) ++i;
  }
  const std::size_t dot = pattern.rfind('.');
  if (dot == std::string::npos) return {pattern, ""};
  return {pattern.substr(0, dot), pattern.substr(dot + 1)};
}

bool is_matrix_op(ggml_op op) {
  return op == GGML_OP_MUL_MAT || op == GGML_OP_MUL_MAT_ID || op == GGML_OP_GET_ROWS;
}

/// Whether every tensor of this name is used as a matrix, in products or for row lookup.
bool is_matrix(const std::string& name) {
  const auto [pattern, suffix] = split_name(name);
  if (pattern == "token_types") return false;  // its rows are also added
  if (suffix == "bias" || suffix == "scale" || suffix == "input_scale") return false;
  auto at = tensor_uses().find(pattern);
  if (at == tensor_uses().end())
    at = tensor_uses().find(suffix.empty() ? pattern : pattern + "." + suffix);
  if (at == tensor_uses().end()) return true;  // llama.cpp rejects unknown names
  return std::ranges::all_of(at->second, is_matrix_op);
}

bool multiplies(ggml_type type) {
  return type == GGML_TYPE_F32 || (ggml_get_type_traits(type)->to_float != nullptr &&
                                   ggml_get_type_traits_cpu(type)->vec_dot != nullptr);
}

/// Whether a tensor has the expert ids of each token.
bool holds_experts(const std::string& name) { return name.ends_with("tid2eid.weight"); }

void check_tensor(const gguf_context* gguf, std::int64_t i) {
  const std::string name = gguf_get_tensor_name(gguf, i);
  const ggml_type type = gguf_get_tensor_type(gguf, i);
  const std::int64_t* ne = gguf_get_tensor_ne(gguf, i);
  require_rule(std::all_of(ne, ne + GGML_MAX_DIMS, [](std::int64_t n) { return n > 0; }),
               "tensor " + in_quotes(name) + " is empty");
  if (holds_experts(name)) {
    require_rule(type == GGML_TYPE_I32, "tensor " + in_quotes(name) +
                                            " must be of type i32; it is " + ggml_type_name(type));
  } else if (is_matrix(name)) {
    require_rule(multiplies(type), "tensor " + in_quotes(name) + " is of type " +
                                       ggml_type_name(type) + ", which llama.cpp cannot multiply");
  } else {
    require_rule(type == GGML_TYPE_F32, "tensor " + in_quotes(name) +
                                            " must be of type f32; it is " + ggml_type_name(type));
  }
}

/// Checks the expert ids of tokens: each must be in [0, n).
void check_experts(const std::string& path, std::size_t begin, std::size_t size, std::int64_t n) {
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(begin));
  std::vector<std::int32_t> experts(size / sizeof(std::int32_t));
  file.read(reinterpret_cast<char*>(experts.data()), static_cast<std::streamsize>(size));
  require_rule(file.good(), "the expert ids of tokens cannot be read");
  const auto is_one = [n](std::int32_t expert) { return expert >= 0 && expert < n; };
  require_rule(std::ranges::all_of(experts, is_one),
               "the expert ids of tokens must be in [0, " + std::to_string(n) + ")");
}

std::int64_t n_experts(const GgufFile& file) {
  const auto counts = file.integers(file.text("general.architecture").value() + ".expert_count");
  return counts && counts->size() == 1 ? counts->front() : 0;
}

void check_tensors(const GgufFile& file, const std::string& path, std::int64_t n) {
  const gguf_context* gguf = file.get();
  const std::size_t alignment = gguf_get_alignment(gguf);
  require_rule(alignment >= kLeastAlignment && alignment <= kMostAlignment,
               "general.alignment must be in [8, 2^20]; it is " + std::to_string(alignment));
  for (std::int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i) {
    check_tensor(gguf, i);
    const std::size_t begin = gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, i);
    const std::size_t size = gguf_get_tensor_size(gguf, i);
    require_rule(
        begin <= file.n_bytes() && size <= file.n_bytes() - begin,
        "tensor " + in_quotes(gguf_get_tensor_name(gguf, i)) + " exceeds the end of the file");
    if (holds_experts(gguf_get_tensor_name(gguf, i))) check_experts(path, begin, size, n);
  }
}

/// Paths of all parts except the first.
std::vector<std::string> other_parts(const GgufFile& file, const std::string& path) {
  const auto counts = file.integers("split.count");
  const std::int64_t n = counts && counts->size() == 1 ? counts->front() : 1;
  require_rule(n <= kMaxParts, "split.count must be at most 10000; it is " + std::to_string(n));
  std::vector<std::string> paths;
  std::vector<char> buffer(path.size() + 64);
  const auto count = static_cast<std::int32_t>(n);
  const std::int32_t length =
      llama_split_prefix(buffer.data(), buffer.size(), path.c_str(), 0, count);
  if (n <= 1 || length <= 0) return paths;  // llama.cpp rejects parts with other names
  const std::string prefix(buffer.data(), static_cast<std::size_t>(length));
  for (std::int32_t i = 1; i < count; ++i) {
    const std::int32_t n_chars =
        llama_split_path(buffer.data(), buffer.size(), prefix.c_str(), i, count);
    paths.emplace_back(buffer.data(), static_cast<std::size_t>(n_chars));
  }
  return paths;
}

}  // namespace

void check_gguf(const std::string& path) {
  const GgufFile file(path);
  check_rules(path, [&] {
    check_hyperparameters(file);
    check_tokenizer(file);
    check_tensors(file, path, n_experts(file));
  });
  for (const std::string& part : other_parts(file, path)) {
    if (!std::filesystem::is_regular_file(part)) continue;  // llama.cpp reports missing parts
    const GgufFile other(part);                             // errors contain the file's name
    check_rules(part, [&] { check_tensors(other, part, n_experts(file)); });
  }
}

}  // namespace llamaherd

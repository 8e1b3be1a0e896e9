#include "llama/model/gguf_file.h"

#include <filesystem>
#include <limits>

#include "common/error.h"
#include "llama/common/abort_guard.h"
#include "llama/common/log_sink.h"

namespace llamaherd {
namespace {

std::optional<std::int64_t> integer_at(gguf_type type, const void* data, std::size_t i) {
  const auto at = [&](auto zero) {
    return static_cast<std::int64_t>(static_cast<const decltype(zero)*>(data)[i]);
  };
  switch (type) {
    case GGUF_TYPE_UINT8:
      return at(std::uint8_t{});
    case GGUF_TYPE_INT8:
    case GGUF_TYPE_BOOL:
      return at(std::int8_t{});
    case GGUF_TYPE_UINT16:
      return at(std::uint16_t{});
    case GGUF_TYPE_INT16:
      return at(std::int16_t{});
    case GGUF_TYPE_UINT32:
      return at(std::uint32_t{});
    case GGUF_TYPE_INT32:
      return at(std::int32_t{});
    case GGUF_TYPE_INT64:
      return at(std::int64_t{});
    case GGUF_TYPE_UINT64: {
      const std::int64_t value = at(std::uint64_t{});
      return value < 0 ? std::numeric_limits<std::int64_t>::max() : value;
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

GgufFile::GgufFile(const std::string& path) {
  const log_sink::ErrorCapture errors;
  const AbortGuard guard;
  std::string failure;
  try {
    context_.reset(gguf_init_from_file(path.c_str(), {.no_alloc = true, .ctx = nullptr}));
    if (!context_) failure = errors.text();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  if (!context_) throw ModelLoadError("cannot load " + path + ": " + failure);
  n_bytes_ = std::filesystem::file_size(path);
}

std::optional<std::string> GgufFile::text(const std::string& key) const {
  const std::int64_t i = find(key);
  if (i < 0 || gguf_get_kv_type(get(), i) != GGUF_TYPE_STRING) return std::nullopt;
  return gguf_get_val_str(get(), i);
}

std::optional<std::vector<std::int64_t>> GgufFile::integers(const std::string& key) const {
  const std::int64_t i = find(key);
  if (i < 0) return std::nullopt;
  const bool is_array = gguf_get_kv_type(get(), i) == GGUF_TYPE_ARRAY;
  const gguf_type type = is_array ? gguf_get_arr_type(get(), i) : gguf_get_kv_type(get(), i);
  if (type == GGUF_TYPE_STRING) return std::nullopt;
  const std::size_t n = is_array ? gguf_get_arr_n(get(), i) : 1;
  const void* data = is_array ? gguf_get_arr_data(get(), i) : gguf_get_val_data(get(), i);
  std::vector<std::int64_t> values;
  for (std::size_t k = 0; k < n; ++k) {
    const std::optional<std::int64_t> value = integer_at(type, data, k);
    if (!value) return std::nullopt;
    values.push_back(*value);
  }
  return values;
}

}  // namespace llamaherd

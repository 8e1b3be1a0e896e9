#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gguf.h"

namespace llamaherd {

/// The header of a GGUF file: metadata and tensor descriptions, without the tensors' data.
class GgufFile {
 public:
  /// Throws ModelLoadError if the header is malformed.
  explicit GgufFile(const std::string& path);

  const gguf_context* get() const { return context_.get(); }
  std::uint64_t n_bytes() const { return n_bytes_; }

  /// Index for gguf_get_*; negative: the key does not exist.
  std::int64_t find(const std::string& key) const { return gguf_find_key(get(), key.c_str()); }

  /// Value of a string key; nothing if it is absent or of another type.
  std::optional<std::string> text(const std::string& key) const;

  /// Integers of a scalar or an array; nothing if the key is absent or of another type. Unsigned
  /// 64-bit values are clamped to INT64_MAX.
  std::optional<std::vector<std::int64_t>> integers(const std::string& key) const;

 private:
  struct Free {
    void operator()(gguf_context* context) const { gguf_free(context); }
  };
  std::unique_ptr<gguf_context, Free> context_;
  std::uint64_t n_bytes_ = 0;
};

}  // namespace llamaherd

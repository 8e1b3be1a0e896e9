#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

#include "kernels/common/cache_lines.h"

namespace llamaherd::kernels {

/// Memory that is kept between graph nodes. Grown by the thread that plans a graph. Does not throw,
/// as C frames are on the stack.
class Workspace {
 public:
  bool reserve(std::size_t n) {
    if (n <= size_) return true;
    const std::size_t bytes = whole_lines(n + n / 2);
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, bytes)));
    size_ = data_ ? bytes : 0;
    return data_ != nullptr;
  }
  std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace llamaherd::kernels

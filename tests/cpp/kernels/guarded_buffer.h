#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <new>

namespace llamaherd {

/// Bytes with a page behind them that must not be touched: reading past the end kills the process.
class GuardedBuffer {
 public:
  explicit GuardedBuffer(std::size_t n) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t n_whole = (n + page - 1) / page * page;
    size_ = n_whole + page;
    void* at = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    begin_ = static_cast<std::byte*>(at);
    if (mprotect(begin_ + n_whole, page, PROT_NONE) != 0) throw std::bad_alloc();
    data_ = begin_ + n_whole - n;
  }
  ~GuardedBuffer() { munmap(begin_, size_); }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  std::byte* data() { return data_; }

 private:
  std::size_t size_;
  std::byte* begin_;
  std::byte* data_;
};

}  // namespace llamaherd

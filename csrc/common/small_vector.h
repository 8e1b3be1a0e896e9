#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace llamaherd {

/// A vector with inline storage for N items.
template <typename T, std::size_t N>
class SmallVector {
 public:
  static constexpr std::size_t kShort = N;

  void push_back(const T& item) {
    if (many_.empty() && n_few_ < N) {
      few_[n_few_++] = item;
      return;
    }
    if (many_.empty()) many_.assign(few_.begin(), few_.end());
    many_.push_back(item);
  }

  const T* begin() const { return many_.empty() ? few_.data() : many_.data(); }
  const T* end() const { return begin() + size(); }
  std::size_t size() const { return many_.empty() ? n_few_ : many_.size(); }
  bool empty() const { return size() == 0; }

 private:
  std::array<T, N> few_{};
  std::size_t n_few_ = 0;
  std::vector<T> many_;  // all items, once there are more than N
};

}  // namespace llamaherd

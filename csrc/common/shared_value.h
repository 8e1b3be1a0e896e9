#pragma once

#include <memory>
#include <utility>

namespace llamaherd {

/// An immutable value, shared between copies. Thread-safe.
template <typename T>
class SharedValue {
 public:
  SharedValue(T value) : value_(std::make_shared<const T>(std::move(value))) {}
  explicit SharedValue(std::shared_ptr<const T> value) : value_(std::move(value)) {}

  const T& operator*() const { return *value_; }
  const T* operator->() const { return value_.get(); }

  /// A member of it, which keeps the whole value alive.
  template <typename Part>
  SharedValue<Part> part(const Part T::*member) const {
    return SharedValue<Part>(std::shared_ptr<const Part>(value_, &((*value_).*member)));
  }

 private:
  std::shared_ptr<const T> value_;
};

}  // namespace llamaherd

#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "request/request.h"

namespace llamaherd {

/// The running requests, in order of admission.
class RunningSet {
 public:
  void add(std::unique_ptr<Request> request) { requests_.push_back(std::move(request)); }

  std::unique_ptr<Request> take(const Request& request) {
    const auto it = std::ranges::find(requests_, &request, &std::unique_ptr<Request>::get);
    std::unique_ptr<Request> taken = std::move(*it);
    requests_.erase(it);
    return taken;
  }

  /// nullptr if there is none with this id.
  Request* find(RequestId id) const {
    for (const auto& request : requests_) {
      if (request->id() == id) return request.get();
    }
    return nullptr;
  }

  const std::vector<std::unique_ptr<Request>>& all() const { return requests_; }
  std::size_t size() const { return requests_.size(); }
  auto begin() const { return requests_.begin(); }
  auto end() const { return requests_.end(); }

 private:
  std::vector<std::unique_ptr<Request>> requests_;
};

}  // namespace llamaherd

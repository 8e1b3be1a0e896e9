#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

namespace llamaherd {

/// Names and expiry times of pinned prefixes, so that the limit is checked at the call. Times are
/// of the engine's clock; an expiry of 0 means never.
class PinTable {
 public:
  /// Throws InvalidRequestError if a pin of this name cannot be added.
  void require_place(const std::string& name, std::int64_t now);
  void put(const std::string& name, std::int64_t expires_ns) { expiries_[name] = expires_ns; }
  void erase(const std::string& name) { expiries_.erase(name); }
  void clear() { expiries_.clear(); }

 private:
  std::unordered_map<std::string, std::int64_t> expiries_;
};

}  // namespace llamaherd

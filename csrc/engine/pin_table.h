#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

namespace llamaherd {

/// Which names of pinned prefixes are in use, so that a pin too many is refused before the engine
/// is asked for it. Times are the clock's; an expiry of 0 is never.
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

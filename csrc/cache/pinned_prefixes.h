#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// Prefixes that are evicted last, by name, each until a moment of the steady clock.
class PinnedPrefixes {
 public:
  struct Pin {
    CacheNamespace space = 0;
    std::vector<TokenId> tokens;
    std::int64_t expires_ns = 0;  // 0: never
  };

  /// Replaces the pin of this name if there is one.
  void pin(const std::string& name, Pin pin);
  /// Returns whether there was such a pin.
  bool unpin(const std::string& name);
  /// Removes the pins with 0 < expires_ns <= now_ns.
  void expire(std::int64_t now_ns);
  void clear() { pins_.clear(); }

  const std::map<std::string, Pin>& all() const { return pins_; }
  std::int32_t size() const { return static_cast<std::int32_t>(pins_.size()); }

 private:
  std::map<std::string, Pin> pins_;
};

}  // namespace llamaherd

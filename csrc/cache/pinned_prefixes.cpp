#include "cache/pinned_prefixes.h"

#include <utility>

namespace llamaherd {

void PinnedPrefixes::pin(const std::string& name, Pin pin) { pins_[name] = std::move(pin); }

bool PinnedPrefixes::unpin(const std::string& name) { return pins_.erase(name) > 0; }

void PinnedPrefixes::expire(std::int64_t now_ns) {
  std::erase_if(pins_, [now_ns](const auto& item) {
    const Pin& pin = item.second;
    return pin.expires_ns != 0 && pin.expires_ns <= now_ns;
  });
}

}  // namespace llamaherd

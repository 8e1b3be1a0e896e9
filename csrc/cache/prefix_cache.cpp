#include "cache/prefix_cache.h"

#include <utility>

namespace llamaherd {

void PrefixCache::pin(const std::string& name, CacheNamespace space, std::vector<TokenId> tokens,
                      std::int64_t expires_ns) {
  pins_[name] = {space, std::move(tokens), expires_ns};
}

bool PrefixCache::unpin(const std::string& name) { return pins_.erase(name) > 0; }

void PrefixCache::expire_pins(std::int64_t now_ns) {
  std::erase_if(pins_, [now_ns](const auto& pin) {
    return pin.second.expires_ns != 0 && pin.second.expires_ns <= now_ns;
  });
}

}  // namespace llamaherd

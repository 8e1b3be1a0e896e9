#include "engine/pin_table.h"

#include "common/error.h"

namespace llamaherd {
namespace {

constexpr std::size_t kMaxPins = 128;
constexpr std::size_t kMaxNameBytes = 256;

}  // namespace

void PinTable::require_place(const std::string& name, std::int64_t now) {
  if (name.empty() || name.size() > kMaxNameBytes) {
    throw InvalidRequestError("a pin's name must have 1 to " + std::to_string(kMaxNameBytes) +
                              " bytes; got " + std::to_string(name.size()));
  }
  std::erase_if(expiries_, [now](const auto& pin) { return pin.second != 0 && pin.second <= now; });
  if (expiries_.size() >= kMaxPins && !expiries_.contains(name)) {
    throw InvalidRequestError("at most " + std::to_string(kMaxPins) +
                              " prefixes may be pinned at once; unpin one first");
  }
}

}  // namespace llamaherd

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// K/V data of positions [begin, end) of one token path outside the backend: in host memory, in a
/// file, or both. Filled when the kSave operation that refers to it is executed.
struct KvBlock {
  Pos begin = 0;
  Pos end = 0;
  std::vector<std::byte> bytes;  // empty: not in host memory
  std::uint64_t file = 0;        // id in the disk tier; 0: none
};

}  // namespace llamaherd

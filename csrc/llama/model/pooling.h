#pragma once

#include <cstdint>

#include "llama.h"

namespace llamaherd {

/// Name of a llama_pooling_type; empty: none.
inline const char* pooling_name(std::int64_t type) {
  switch (type) {
    case LLAMA_POOLING_TYPE_MEAN:
      return "mean";
    case LLAMA_POOLING_TYPE_CLS:
      return "cls";
    case LLAMA_POOLING_TYPE_LAST:
      return "last";
    case LLAMA_POOLING_TYPE_RANK:
      return "rank";
    default:
      return "";
  }
}

}  // namespace llamaherd

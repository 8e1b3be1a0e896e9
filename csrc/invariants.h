#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "types.h"

namespace llamaherd {

/// A copy of every counter that must agree with another, taken between two steps.
struct Snapshot {
  struct Running {
    RequestId id = 0;
    SeqId seq = kNoSeq;
    Pos n_prompt = 0;
    Pos n_tokens = 0;
    Pos kv_len = 0;
    std::int32_t n_cells_needed = 0;
  };
  struct Sequence {
    bool in_use = false;
    Pos pool_length = 0;
    Pos backend_length = 0;
  };
  std::vector<Running> running;
  std::vector<Sequence> sequences;  // by sequence id
  std::int32_t n_cells = 0;
  std::int32_t n_cells_used = 0;
  std::int32_t n_cells_reserved = 0;
};

/// One sentence per rule that `snapshot` breaks; empty when all hold.
std::vector<std::string> violations(const Snapshot& snapshot);

}  // namespace llamaherd

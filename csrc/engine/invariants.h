#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// Counters that must agree with each other, copied between two steps.
struct Snapshot {
  struct Running {
    RequestId id = 0;
    SeqId seq = kNoSeq;
    Pos n_prompt = 0;
    Pos n_tokens = 0;
    Pos kv_len = 0;
    std::int32_t n_cells_needed = 0;
    bool is_late = false;  // the mask of its next token is late
  };
  struct Sequence {
    SeqId seq = kNoSeq;
    bool in_use = false;
    Pos cache_length = 0;
    Pos backend_length = 0;
  };
  std::vector<Running> running;
  std::vector<Sequence> sequences;  // ids used in batches, in order, then the cache's holders
  std::vector<std::string> cache_violations;
  std::int32_t n_seqs = 0;
  std::int32_t n_cells = 0;
  std::int32_t n_cells_used = 0;
  std::int32_t n_cells_needed = 0;  // of them, needed by running requests
};

/// One sentence per rule that `snapshot` breaks; empty if all hold.
std::vector<std::string> violations(const Snapshot& snapshot);

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "scheduler/step_plan.h"

namespace llamaherd {

/// Converts a call plan into flat batch rows: token ids, positions, sequence ids and logits flags.
class BatchBuilder {
 public:
  explicit BatchBuilder(SeqId pad_seq) : pad_seq_(pad_seq) {}

  /// Appends n_pad padding rows to the plan's rows. The view is valid until the next build().
  /// Throws std::logic_error if the row numbers differ from the plan's.
  BatchView build(const CallPlan& call, std::int32_t n_pad);

 private:
  SeqId pad_seq_;
  std::vector<TokenId> tokens_;
  std::vector<Pos> positions_;
  std::vector<SeqId> seqs_;
  std::vector<std::uint8_t> wants_logits_;
};

}  // namespace llamaherd

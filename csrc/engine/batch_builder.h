#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "scheduler/step_plan.h"

namespace llamaherd {

/// Lays a call's tokens out as flat rows. The one place that decides ids, positions and which rows
/// give logits.
class BatchBuilder {
 public:
  explicit BatchBuilder(SeqId pad_seq) : pad_seq_(pad_seq) {}

  /// With n_pad rows that nobody needs behind the plan's. The view is valid until the next build().
  /// Throws std::logic_error if the rows come out elsewhere than the plan says.
  BatchView build(const CallPlan& call, std::int32_t n_pad);

 private:
  SeqId pad_seq_;
  std::vector<TokenId> tokens_;
  std::vector<Pos> positions_;
  std::vector<SeqId> seqs_;
  std::vector<std::uint8_t> wants_logits_;
};

}  // namespace llamaherd

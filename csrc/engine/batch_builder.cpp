#include "engine/batch_builder.h"

#include <stdexcept>
#include <string>

#include "request/request.h"

namespace llamaherd {
namespace {

void check(bool ok, const char* what, const PlannedRequest& item) {
  if (ok) return;
  throw std::logic_error(std::string("BatchBuilder: ") + what + " of request " +
                         std::to_string(item.request->id()) + " differs from the plan");
}

}  // namespace

BatchView BatchBuilder::build(const CallPlan& call, std::int32_t n_pad) {
  tokens_.clear();
  positions_.clear();
  seqs_.clear();
  wants_logits_.clear();
  for (const PlannedRequest& item : call.items) {
    const auto tokens = item.request->tokens();
    check(static_cast<std::int32_t>(tokens_.size()) == item.first_row, "first row", item);
    check(item.begin == item.request->kv_len() && item.begin < item.end &&
              item.end <= item.request->n_tokens(),
          "token range", item);
    for (Pos pos = item.begin; pos < item.end; ++pos) {
      tokens_.push_back(tokens[pos]);
      positions_.push_back(pos);
      seqs_.push_back(item.seq);
      wants_logits_.push_back(pos >= item.score_begin && pos < item.score_end);
    }
    check(item.score_begin >= item.score_end ||
              (item.score_begin >= item.begin && item.score_end <= item.end),
          "scored range", item);
    if (item.logits_row < 0) continue;
    check(item.logits_row == static_cast<std::int32_t>(tokens_.size()) - 1 &&
              item.end == item.request->n_tokens(),
          "logits row", item);
    wants_logits_.back() = 1;
    for (Pos i = 0; i < item.n_drafted; ++i) {
      tokens_.push_back(item.request->draft.tokens[i]);
      positions_.push_back(item.end + i);
      seqs_.push_back(item.seq);
      wants_logits_.push_back(1);
    }
  }
  for (Pos pos = 0; pos < n_pad; ++pos) {
    tokens_.push_back(0);
    positions_.push_back(pos);
    seqs_.push_back(pad_seq_);
    wants_logits_.push_back(0);
  }
  return {tokens_, positions_, seqs_, wants_logits_};
}

}  // namespace llamaherd

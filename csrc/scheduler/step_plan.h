#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/prefix_cache.h"
#include "common/types.h"

namespace llamaherd {

class Request;

/// What one request runs in one call: its tokens [begin, end), which are also their positions.
struct PlannedRequest {
  Request* request = nullptr;
  SeqId seq = kNoSeq;
  Pos begin = 0;
  Pos end = 0;
  std::int32_t first_row = 0;
  std::int32_t logits_row = -1;  // the row of token end - 1 if it is the last known one, or -1
  Pos score_begin = 0;           // rows of tokens [score_begin, score_end) give logits as well, for
  Pos score_end = 0;             // the log-probabilities of the tokens behind them
  std::int32_t n_drafted = 0;  // rows behind logits_row of the request's first draft_tokens, which
                               // give logits too

  std::int32_t row_of(Pos pos) const { return first_row + (pos - begin); }
};

/// One decode call: the unit that is committed or undone.
struct CallPlan {
  std::vector<PlannedRequest> items;
  std::int32_t n_rows = 0;  // of the items
  std::int32_t n_pad = 0;   // rows that are to fill it up, where there is room
  std::int32_t n_scored = 0;
  std::int32_t n_drafted = 0;  // of n_rows, rows of draft_tokens

  void clear() {
    items.clear();
    n_rows = n_pad = n_scored = n_drafted = 0;
  }

  void add(Request* request, SeqId seq, Pos begin, Pos end, bool wants_logits) {
    const std::int32_t logits_row = wants_logits ? n_rows + (end - begin) - 1 : -1;
    items.push_back({request, seq, begin, end, n_rows, logits_row});
    n_rows += end - begin;
  }

  /// n[i] rows of draft_tokens for items[i], all of which want logits.
  void draft(std::span<const std::int32_t> n) {
    n_rows = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      PlannedRequest& item = items[i];
      item.n_drafted = n[i];
      item.first_row = n_rows;
      item.logits_row = n_rows + (item.end - item.begin) - 1;
      n_rows += item.end - item.begin + n[i];
      n_drafted += n[i];
    }
  }

  /// Of the item added last.
  void score(Pos begin, Pos end) {
    items.back().score_begin = begin;
    items.back().score_end = end;
    n_scored += end - begin;
  }
};

/// A step's calls, which leave their memory to those of later steps.
class CallList {
 public:
  CallPlan& add() {
    if (n_ == calls_.size()) calls_.emplace_back();
    CallPlan& call = calls_[n_++];
    call.clear();
    return call;
  }
  void clear() { n_ = 0; }

  std::size_t size() const { return n_; }
  bool empty() const { return n_ == 0; }
  const CallPlan& operator[](std::size_t i) const { return calls_[i]; }
  const CallPlan* begin() const { return calls_.data(); }
  const CallPlan* end() const { return calls_.data() + n_; }

 private:
  std::vector<CallPlan> calls_;
  std::size_t n_ = 0;
};

/// A request whose whole prompt is in its cache and whose next logits are known.
struct KnownStart {
  Request* request = nullptr;
  std::span<const float> logits;
};

/// What the step executes: see Scheduler::prepare_step.
struct StepPlan {
  std::vector<KvOp> kv_ops;  // applied in this order before all else
  std::vector<KnownStart> known_starts;
  std::vector<Request*> restores;  // get data from the cache's lower tiers, and no rows
  CallList calls;                  // in this order; no request stands in two of them
  bool any_decode = false;         // a request needs its next token

  void clear() {
    kv_ops.clear();
    known_starts.clear();
    restores.clear();
    calls.clear();
    any_decode = false;
  }
  bool empty() const { return calls.empty() && known_starts.empty() && restores.empty(); }
};

}  // namespace llamaherd

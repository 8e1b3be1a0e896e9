#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/prefix_cache.h"
#include "common/types.h"

namespace llamaherd {

class Request;

/// The tokens [begin, end) of one request that one call computes; token indices equal positions.
struct PlannedRequest {
  Request* request = nullptr;
  SeqId seq = kNoSeq;
  Pos begin = 0;
  Pos end = 0;
  std::int32_t first_row = 0;
  std::int32_t logits_row = -1;  // row of token end - 1 if it is the last known token, else -1
  Pos score_begin = 0;           // tokens [score_begin, score_end) also need logits, for the
  Pos score_end = 0;             // log-probabilities of the tokens after them
  /// Rows of the first draft_tokens, after logits_row; they need logits too.
  std::int32_t n_drafted = 0;

  std::int32_t row_of(Pos pos) const { return first_row + (pos - begin); }
};

/// One decode call, which is committed or undone as a whole.
struct CallPlan {
  std::vector<PlannedRequest> items;
  std::int32_t n_rows = 0;  // excluding padding
  std::int32_t n_pad = 0;   // padding rows, added if there is room
  std::int32_t n_scored = 0;
  std::int32_t n_drafted = 0;  // of n_rows, rows of draft tokens

  void clear() {
    items.clear();
    n_rows = n_pad = n_scored = n_drafted = 0;
  }

  void add(Request* request, SeqId seq, Pos begin, Pos end, bool wants_logits) {
    const std::int32_t logits_row = wants_logits ? n_rows + (end - begin) - 1 : -1;
    items.push_back({request, seq, begin, end, n_rows, logits_row});
    n_rows += end - begin;
  }

  /// Adds n[i] rows of draft tokens to items[i]; all need logits.
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

  /// Applies to the item added last.
  void score(Pos begin, Pos end) {
    items.back().score_begin = begin;
    items.back().score_end = end;
    n_scored += end - begin;
  }
};

/// A step's calls. Items keep their memory for later steps.
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

/// A request whose whole prompt is cached and whose next logits are known.
struct KnownStart {
  Request* request = nullptr;
  std::span<const float> logits;
};

/// The actions of one step: see Scheduler::prepare_step.
struct StepPlan {
  std::vector<KvOp> kv_ops;  // applied first, in this order
  std::vector<KnownStart> known_starts;
  std::vector<Request*> restores;  // get data from lower cache tiers; no rows
  CallList calls;                  // executed in this order; no request is in two of them
  bool any_decode = false;         // whether any request decodes

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

#include "engine.h"

#include <chrono>
#include <stdexcept>

namespace llamaherd {

std::int64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

Engine::Engine(Backend& backend, const TokenTable& table, const Limits& limits,
               const Budget& budget)
    : backend_(backend),
      table_(table),
      limits_(limits),
      pool_(backend.info().n_seqs, backend.info().n_ctx),
      scheduler_({budget, backend.info().split_prefill}, pool_) {}

void Engine::submit(RequestId id, std::vector<TokenId> prompt, const SamplingParams& params,
                    std::uint64_t seed, std::int64_t submit_ns, bool streamed) {
  ++metrics_.n_submitted;
  auto request =
      std::make_unique<Request>(id, std::move(prompt), params, seed, limits_, table_, submit_ns);
  request->streamed = streamed;
  scheduler_.submit(std::move(request));
}

void Engine::step(std::vector<Delta>& out) {
  const std::int64_t begin_ns = now_ns();
  StepPlan& plan = scheduler_.plan_step(begin_ns);
  if (plan.empty()) return;
  apply(plan.kv_ops);
  if (execute(plan.decode, out)) execute(plan.prefill, out);
  ++metrics_.n_steps;
  metrics_.step_ns += now_ns() - begin_ns;
}

void Engine::apply(const std::vector<KvOp>& ops) {
  for (const KvOp& op : ops) {
    if (!backend_.apply(op)) throw std::logic_error("a planned cache operation was refused");
  }
}

/// Decodes, samples and commits one call, or undoes it.
Engine::Outcome Engine::attempt(const CallPlan& call, std::vector<Delta>& out) {
  StepGuard guard(call, backend_, pool_);
  const DecodeStatus status = decode(call);
  bool any_poisoned = false;
  if (status == DecodeStatus::kOk) {
    any_poisoned = sample(call);
    guard.commit(staged_);
  } else {
    guard.undo_all();
  }
  metrics_.n_sequences_dropped += guard.n_dropped();
  metrics_.n_cells_used_max = std::max(metrics_.n_cells_used_max, pool_.n_cells_used());
  switch (status) {
    case DecodeStatus::kOk:
      emit(call, out);
      return any_poisoned ? Outcome::kPoisoned : Outcome::kOk;
    case DecodeStatus::kNoRoom:
      ++metrics_.n_no_room;
      failure_ = "the KV cache has no room for it, though it was counted to fit";
      return Outcome::kNoRoom;
    case DecodeStatus::kInvalidBatch:
      ++metrics_.n_invalid_batch;
      failure_ = "the backend refused its rows as invalid";
      return Outcome::kInvalidBatch;
    case DecodeStatus::kAborted:
      ++metrics_.n_aborted;
      return Outcome::kAborted;
    case DecodeStatus::kFailed:
      ++metrics_.n_failed;
      return Outcome::kFailed;
  }
  throw std::logic_error("unknown decode status");
}

DecodeStatus Engine::decode(const CallPlan& call) {
  const BatchView batch = builder_.build(call);
  std::int32_t n_decode_rows = 0;
  for (const PlannedRequest& item : call.items) n_decode_rows += item.end == item.begin + 1;
  const std::int64_t begin_ns = now_ns();
  DecodeStatus status = DecodeStatus::kFailed;
  failure_ = "the decode call failed";
  try {
    status = backend_.decode(batch);
  } catch (const std::exception& error) {
    failure_ = std::string("the decode call failed: ") + error.what();
  }
  const std::int64_t spent_ns = now_ns() - begin_ns;
  if (n_decode_rows > 0) {
    ++metrics_.n_decode_calls;
    metrics_.decode_ns += spent_ns;
  } else {
    ++metrics_.n_prefill_calls;
    metrics_.prefill_ns += spent_ns;
  }
  metrics_.n_decode_rows += n_decode_rows;
  metrics_.n_prefill_rows += call.n_rows - n_decode_rows;
  return status;
}

/// Fills staged_; returns whether a row was poisoned. Changes no request.
bool Engine::sample(const CallPlan& call) {
  const std::int64_t begin_ns = now_ns();
  staged_.assign(call.items.size(), {});
  bool any_poisoned = false;
  for (std::size_t i = 0; i < call.items.size(); ++i) {
    const PlannedRequest& item = call.items[i];
    if (item.logits_row < 0) continue;
    staged_[i].token = item.request->sampler().sample(backend_.logits(item.logits_row), scratch_);
    staged_[i].poisoned = !staged_[i].token;
    metrics_.n_poisoned_rows += staged_[i].poisoned;
    any_poisoned |= staged_[i].poisoned;
  }
  metrics_.sample_ns += now_ns() - begin_ns;
  return any_poisoned;
}

/// Hands out what the committed call gained and retires who is done.
void Engine::emit(const CallPlan& call, std::vector<Delta>& out) {
  const std::int64_t now = now_ns();
  for (std::size_t i = 0; i < call.items.size(); ++i) {
    if (!staged_[i].token) continue;
    Request& request = *call.items[i].request;
    request.n_strikes = 0;
    ++metrics_.n_output_tokens;
    Delta delta = request.take_delta(table_, now);
    const auto reason = delta.finish_reason;
    if (!reason && !request.streamed) {
      request.hold(std::move(delta));
      continue;
    }
    out.push_back(std::move(delta));
    if (!reason) continue;
    count_finish(*reason);
    retire(request);
  }
}

void Engine::cancel(RequestId id, std::vector<Delta>& out) {
  if (Request* request = scheduler_.find(id)) end(*request, FinishReason::kCancelled, "", out);
}

void Engine::finish_all(FinishReason reason, const std::string& error, std::vector<Delta>& out) {
  while (!scheduler_.running().empty()) {
    try {
      end(*scheduler_.running().back(), reason, error, out);
    } catch (const std::exception&) {
      // The backend may be what broke; the request is ended and gone all the same.
    }
  }
  while (!scheduler_.waiting().empty()) end(*scheduler_.waiting().back(), reason, error, out);
}

void Engine::end(Request& request, FinishReason reason, const std::string& error,
                 std::vector<Delta>& out) {
  out.push_back(request.finish(reason, error, now_ns()));
  count_finish(reason);
  retire(request);
}

void Engine::retire(Request& request) {
  const SeqId seq = request.seq();
  // First: if the backend throws, finish_all() must not end this request a second time.
  scheduler_.remove(request.id());
  if (seq == kNoSeq) return;
  pool_.release(seq);
  backend_.apply({KvOp::Kind::kRemove, seq, 0, -1});
}

void Engine::count_finish(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      ++metrics_.n_finished_stop;
      break;
    case FinishReason::kLength:
      ++metrics_.n_finished_length;
      break;
    case FinishReason::kCancelled:
      ++metrics_.n_finished_cancelled;
      break;
    case FinishReason::kError:
      ++metrics_.n_finished_error;
      break;
  }
}

Metrics Engine::metrics() const {
  Metrics m = metrics_;
  m.n_running = static_cast<std::int32_t>(scheduler_.running().size());
  m.n_waiting = static_cast<std::int32_t>(scheduler_.waiting().size());
  m.n_seqs = pool_.n_seqs();
  m.n_cells = pool_.n_cells();
  m.n_cells_used = pool_.n_cells_used();
  m.n_cells_reserved = pool_.n_cells_reserved();
  return m;
}

Snapshot Engine::snapshot() const {
  Snapshot s;
  for (const auto& r : scheduler_.running()) {
    s.running.push_back(
        {r->id(), r->seq(), r->n_prompt(), r->n_tokens(), r->kv_len(), r->n_cells_needed()});
  }
  for (SeqId seq = 0; seq < pool_.n_seqs(); ++seq) {
    s.sequences.push_back({pool_.in_use(seq), pool_.length(seq), backend_.length(seq)});
  }
  s.n_cells = pool_.n_cells();
  s.n_cells_used = pool_.n_cells_used();
  s.n_cells_reserved = pool_.n_cells_reserved();
  return s;
}

}  // namespace llamaherd

#include "engine/engine.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace llamaherd {
namespace {

// Some tens of rows of any vocabulary.
constexpr std::size_t kMaxPromptLogitsBytes = std::size_t{16} << 20;

/// Whether rows can be computed and forgotten again at no cost to others.
bool may_draft(const BackendInfo& info) { return info.partial_removal && info.pad_seq != kNoSeq; }

}  // namespace

Engine::Engine(Backend& backend, const Vocabulary& table, const Limits& limits,
               const PlanOptions& plan, const CacheOptions& cache, const Clock& clock)
    : clock_(clock),
      backend_(backend),
      table_(table),
      limits_(limits),
      pool_(backend.info().n_seqs),
      cache_(make_cache(backend.info(), cache)),
      logits_(kMaxPromptLogitsBytes),
      caches_(cache.enabled),
      learns_(plan.learns),
      costs_(plan.calibration ? CostModel(*plan.calibration, backend.info().attends_in_tiles)
                              : CostModel(backend.info().attends_in_tiles)),
      governor_(backend.info().n_threads),
      scheduler_({plan.packing, backend.info().n_ctx, backend.info().max_scored_rows,
                  !backend.info().partial_removal, plan.prompt_lookup && may_draft(backend.info()),
                  plan.queue},
                 costs_, pool_, *cache_, logits_),
      builder_(backend.info().pad_seq),
      sampler_(backend.info().n_threads) {}

void Engine::submit(RequestId id, SharedValue<std::vector<TokenId>> prompt,
                    SharedValue<SamplingParams> params, std::uint64_t seed, std::int64_t submit_ns,
                    const SubmitOptions& options) {
  auto request = std::make_unique<Request>(id, std::move(prompt), std::move(params), seed, limits_,
                                           table_, submit_ns);
  request->delivery.streamed = options.streamed;
  if (caches_) request->cache_space = options.cache_space;
  request->queue_entry.key = options.key;
  request->delivery.index = options.index;
  request->constrained.constraint = options.constraint;
  request->delivery.trace = &trace_;
  scheduler_.submit(std::move(request), submit_ns);
  ++metrics_.n_submitted;
}

void Engine::step(std::vector<Delta>& out) {
  const std::int64_t begin_ns = clock_.now_ns();
  const std::int64_t n_prefill_rows = metrics_.n_prefill_rows;
  cache_->expire_pins(begin_ns);
  end_overdue(begin_ns, out);
  sample_late(out);
  StepPlan& plan = scheduler_.plan_step(begin_ns);
  apply(plan.kv_ops);
  if (plan.empty()) {
    wait_for_mask();
    return;
  }
  const bool any_decode = plan.any_decode;
  metrics_.n_decode_steps += any_decode;
  restore(plan);
  sample_cached_prompts(plan, out);
  // Recovery plans anew while a call of this plan is still at hand.
  std::swap(calls_, plan.calls);
  for (const CallPlan& call : calls_) {
    if (!execute(call, out)) break;
  }
  ++metrics_.n_steps;
  metrics_.step_ns += clock_.now_ns() - begin_ns;
  watch_step(begin_ns, metrics_.n_prefill_rows - n_prefill_rows, any_decode);
}

/// Carries out what the cache asked for, and forgets it.
void Engine::apply(std::vector<KvOp>& ops) {
  for (const KvOp& op : ops) {
    if (op.kind == KvOp::Kind::kSave) {
      save(op);
    } else if (!backend_.apply(op)) {
      throw std::logic_error("a planned cache operation was refused");
    }
  }
  ops.clear();
  cache_->settle();
}

/// What cannot be saved is lost to the lower tiers, and will be found so.
void Engine::save(const KvOp& op) {
  try {
    op.block->bytes = backend_.save(op.seq, op.begin, op.end);
  } catch (const std::bad_alloc&) {
    op.block->bytes.clear();
  }
}

/// Brings back what lies in the cache's lower tiers: all of it, or a piece each while others wait
/// for their next token.
void Engine::restore(const StepPlan& plan) {
  if (plan.restores.empty()) return;
  spend_all(TimeCategory::kEngine, clock_.now_ns());
  for (Request* request : plan.restores) {
    do {
      const auto tokens = request->tokens().first(request->admission.n_restorable);
      const std::int32_t n_cells = cache_->n_cells_to_restore(request->seq(), tokens);
      // Before the piece is asked for: what makes room may move it, or forget it.
      const bool fits = n_cells > 0 && cache_->make_room(n_cells, ops_);
      apply(ops_);
      const auto piece = fits ? cache_->next_restore(request->seq(), tokens) : std::nullopt;
      if (!piece) {
        request->admission.n_restorable = 0;  // the rest is computed
        break;
      }
      const bool loaded = backend_.load(request->seq(), piece->begin, piece->end, piece->data());
      cache_->restored(request->seq(), *piece, loaded);
      if (!loaded) continue;
      cache_->publish(request->seq(), tokens.first(piece->end), false, ops_);
      apply(ops_);
      request->share(piece->end);
    } while (request->admission.n_restorable > request->kv_len() && !plan.any_decode);
    const std::int64_t now = clock_.now_ns();
    request->spend(TimeCategory::kPrefillShared, now);
    spend_all(TimeCategory::kOthersPrefill, now);
  }
}

void Engine::sample_cached_prompts(const StepPlan& plan, std::vector<Delta>& out) {
  for (const KnownStart& start : plan.known_starts) {
    known_logits_.assign(start.logits.begin(), start.logits.end());  // sampling may change it
    SampledOutput sampled = sampler_.sample(*start.request, known_logits_);
    if (sampled.poisoned) throw std::logic_error("stored logits are not finite");
    StepGuard::commit(*start.request, start.request->kv_len(), sampled);
    ++metrics_.n_prompt_logits_hits;
    deliver_result(*start.request, sampled, clock_.now_ns(), out);
  }
}

/// Decodes, samples and commits one call, or undoes it.
Engine::Outcome Engine::attempt(const CallPlan& call, std::vector<Delta>& out) {
  const bool fits = cache_->make_room(call.n_rows + call.n_pad, ops_);
  if (!fits) cache_->make_room(call.n_rows, ops_);
  apply(ops_);
  StepGuard guard(call, backend_, *cache_);
  Outcome outcome = outcome_of(decode(call, fits ? call.n_pad : 0));
  const bool decoded = outcome == Outcome::kOk;
  if (decoded) {
    if (sample(call)) outcome = Outcome::kPoisoned;
    guard.commit(staged_);
    keep_late(call);
    for (const SampledOutput& sampled : staged_)
      metrics_.n_draft_accepted += std::ssize(sampled.further);
    publish(call);
  } else {
    guard.undo_all();
  }
  metrics_.n_sequences_dropped += guard.n_dropped();
  metrics_.n_cells_used_max = std::max(metrics_.n_cells_used_max, cache_->n_cells_used());
  if (decoded) emit(call, out);
  if (loses_all(outcome)) rebuild_cache();
  return outcome;
}

/// Counts what failed.
Engine::Outcome Engine::outcome_of(DecodeStatus status) {
  switch (status) {
    case DecodeStatus::kOk:
      return Outcome::kOk;
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

DecodeStatus Engine::decode(const CallPlan& call, std::int32_t n_pad) {
  const BatchView batch = builder_.build(call, n_pad);
  ShapeSum sum;
  for (const PlannedRequest& item : call.items) {
    sum.add(item.begin, item.end - item.begin);
    sum.draft(item.begin, item.n_drafted);
  }
  sum.pad(n_pad);
  const std::int32_t n_decode_rows = sum.n_decode_rows();
  const std::int32_t n_prefill_rows = call.n_rows - call.n_drafted - n_decode_rows;
  const std::int32_t n_cells_used = cache_->n_cells_used();
  const double predicted_ns = costs_.measured() ? costs_.call_ns(sum.shape(n_cells_used)) : 0;
  backend_.use_threads(governor_.n_threads());
  const std::int64_t begin_ns = clock_.now_ns();
  spend_all(TimeCategory::kEngine, begin_ns);
  watchdog_.call_begins(begin_ns, predicted_ns, n_decode_rows, n_prefill_rows);
  DecodeStatus status = DecodeStatus::kFailed;
  failure_ = "the decode call failed";
  try {
    status = backend_.decode(batch);
  } catch (const std::exception& error) {
    failure_ = std::string("the decode call failed: ") + error.what();
  }
  const std::int64_t end_ns = clock_.now_ns();
  const std::int64_t spent_ns = end_ns - begin_ns;
  watchdog_.call_ends(end_ns, status == DecodeStatus::kOk);
  account_for(call, end_ns);
  trace_.called({begin_ns, end_ns, predicted_ns, n_decode_rows, n_prefill_rows, n_pad,
                 static_cast<std::int32_t>(scheduler_.queue().size()), n_cells_used});
  if (n_pad > 0) backend_.apply({KvOp::Kind::kRemove, backend_.info().pad_seq, 0, -1});
  if (learns_ && status == DecodeStatus::kOk) {
    const auto ns = static_cast<double>(spent_ns);
    const bool is_draft =
        call.n_drafted > 0 && scheduler_.observe_draft(call.n_rows, ns / predicted_ns);
    if (!is_draft) {
      if (predicted_ns > 0) governor_.observe(ns * costs_.pace() / predicted_ns);
      costs_.observe(sum.shape(n_cells_used), ns);
    }
  }
  metrics_.n_padding_rows += n_pad;
  if (n_decode_rows > 0) {
    ++metrics_.n_decode_calls;
    metrics_.decode_ns += spent_ns;
  } else {
    ++metrics_.n_prefill_calls;
    metrics_.prefill_ns += spent_ns;
  }
  metrics_.n_decode_rows += n_decode_rows;
  metrics_.n_prefill_rows += n_prefill_rows;
  metrics_.n_drafted += call.n_drafted;
  return status;
}

/// Fills staged_; returns whether a row was poisoned. Changes no request.
bool Engine::sample(const CallPlan& call) {
  const std::int64_t begin_ns = clock_.now_ns();
  const auto ends_prompt = [](const PlannedRequest& item) {
    const Request& request = *item.request;
    return item.logits_row >= 0 && item.end == request.n_prompt() && request.cache_space;
  };
  for (const PlannedRequest& item : call.items) {  // sampling may change the rows
    if (!ends_prompt(item)) continue;
    const Request& request = *item.request;
    logits_.put(*request.cache_space, request.tokens(), backend_.logits(item.logits_row));
  }
  sampler_.sample(call, backend_, staged_);
  bool any_poisoned = false;
  for (std::size_t i = 0; i < staged_.size(); ++i) {
    if (!staged_[i].poisoned) continue;
    if (ends_prompt(call.items[i])) logits_.clear();
    ++metrics_.n_poisoned_rows;
    any_poisoned = true;
  }
  const std::int64_t end_ns = clock_.now_ns();
  metrics_.sample_ns += end_ns - begin_ns;
  spend_all(TimeCategory::kSampling, end_ns);
  return any_poisoned;
}

/// Lets others share what the committed call computed.
void Engine::publish(const CallPlan& call) {
  for (std::size_t i = 0; i < call.items.size(); ++i) {
    if (staged_[i].poisoned) continue;
    const Request& request = *call.items[i].request;
    const Pos n = request.kv_len();
    const bool at_boundary = n == request.n_prompt() || request.admission.cuts.contains(n);
    cache_->publish(request.seq(), request.tokens().first(n), at_boundary, ops_);
  }
  apply(ops_);
}

/// Hands out what the committed call gained and retires who is done.
void Engine::emit(const CallPlan& call, std::vector<Delta>& out) {
  const std::int64_t now = clock_.now_ns();
  for (std::size_t i = 0; i < call.items.size(); ++i) {
    deliver_result(*call.items[i].request, staged_[i], now, out);
  }
}

/// What the request's row came to; afterwards it may be gone.
void Engine::deliver_result(Request& request, const SampledOutput& sampled, std::int64_t now,
                            std::vector<Delta>& out) {
  if (!sampled.error.empty()) {
    end(request, FinishReason::kError, sampled.error, out);
  } else if (sampled.token) {
    emit(request, now, out);
  }
}

/// Hands out the token the request has just gained; afterwards it may be gone.
void Engine::emit(Request& request, std::int64_t now, std::vector<Delta>& out) {
  const std::int32_t n_before = request.n_shown();
  Delta delta = request.take_delta(now);
  if (!request.forced()) metrics_.n_output_tokens += delta.n_completion - n_before;
  const auto reason = delta.finish_reason;
  const auto request_ns = static_cast<double>(now - delta.timing.start_ns);
  if (!reason && !request.delivery.streamed) {
    request.hold(std::move(delta));
    return;
  }
  out.push_back(std::move(delta));
  if (!reason) return;
  watch_end(request, request_ns);
  count_finish(*reason);
  retire(request);
}

void Engine::cancel(RequestId id, std::vector<Delta>& out) {
  if (Request* request = scheduler_.find(id)) end(*request, FinishReason::kCancelled, "", out);
}

void Engine::finish_all(FinishReason reason, const std::string& error, std::vector<Delta>& out) {
  const auto any = [this]() -> Request* {
    const auto& running = scheduler_.running();
    return running.empty() ? scheduler_.queue().any() : running.back().get();
  };
  while (Request* request = any()) {
    try {
      end(*request, reason, error, out);
    } catch (const std::exception&) {
      // The backend may be what broke, or there is no memory for a delta: it is gone all the same.
      if (any() == request) scheduler_.take(*request);
      if (any() == request) throw;
    }
  }
}

void Engine::end(Request& request, FinishReason reason, const std::string& error,
                 std::vector<Delta>& out) {
  out.push_back(request.finish(reason, error, clock_.now_ns()));
  count_finish(reason);
  retire(request);
}

void Engine::retire(Request& request) {
  // Out of the scheduler first: if the backend throws, finish_all() must not end it a second time.
  const std::unique_ptr<Request> owned = scheduler_.take(request);
  if (owned->seq() == kNoSeq) return;
  pool_.release(owned->seq());
  cache_->release(owned->seq(), owned->tokens(), ops_);
  apply(ops_);
}

void Engine::pin(const std::string& name, CacheNamespace space, std::vector<TokenId> tokens,
                 std::int64_t expires_ns) {
  cache_->pin(name, space, std::move(tokens), expires_ns);
}

void Engine::unpin(const std::string& name) { cache_->unpin(name); }

void Engine::clear_cache() {
  logits_.clear();
  cache_->clear(ops_);
  apply(ops_);
}

void Engine::flush_cache() {
  while (cache_->flush_next(ops_)) apply(ops_);
}

Snapshot Engine::snapshot() const {
  Snapshot s;
  for (const auto& r : scheduler_.running()) {
    s.running.push_back({r->id(), r->seq(), r->n_prompt(), r->n_tokens(), r->kv_len(),
                         r->n_cells_needed(), !r->constrained.late_row.empty()});
  }
  for (const PrefixCache::ExpectedLength& belief : cache_->expected_lengths()) {
    const bool in_use = belief.seq < pool_.n_seqs() && pool_.in_use(belief.seq);
    s.sequences.push_back({belief.seq, in_use, belief.length, backend_.length(belief.seq)});
  }
  s.cache_violations = cache_->violations();
  s.n_seqs = pool_.n_seqs();
  s.n_cells = backend_.info().n_ctx;
  s.n_cells_used = cache_->n_cells_used();
  s.n_cells_needed = cache_->n_cells_needed();
  return s;
}

}  // namespace llamaherd

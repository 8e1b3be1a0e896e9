#include "engine/engine.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "engine/step_guard.h"

namespace llamaherd {
namespace {

// Some tens of rows for common vocabulary sizes.
constexpr std::size_t kMaxPromptLogitsBytes = std::size_t{16} << 20;

/// Whether computed rows can be removed again without affecting other sequences.
bool may_draft(const BackendInfo& info) { return info.partial_removal && info.pad_seq != kNoSeq; }

}  // namespace

Engine::Engine(Backend& backend, const Vocabulary& table, const Limits& limits,
               const PlanOptions& plan, const CacheOptions& cache, const Clock& clock)
    : clock_(clock),
      backend_(backend),
      table_(table),
      limits_(limits),
      caches_(cache.enabled),
      learns_(plan.learns),
      pool_(backend.info().n_seqs),
      cache_(make_cache(backend.info(), cache)),
      prompt_logits_(kMaxPromptLogitsBytes),
      costs_(plan.calibration ? CostModel(*plan.calibration, backend.info().attends_in_tiles)
                              : CostModel(backend.info().attends_in_tiles)),
      scheduler_({plan.packing, backend.info().n_ctx, backend.info().max_scored_rows,
                  !backend.info().partial_removal, plan.prompt_lookup && may_draft(backend.info()),
                  plan.queue},
                 costs_, pool_, *cache_, prompt_logits_),
      sampler_(backend.info().n_threads),
      accounting_(scheduler_, costs_, *cache_, backend.info(), clock),
      operations_(backend, *cache_),
      delivery_(scheduler_, pool_, *cache_, operations_, accounting_, clock),
      late_masks_(scheduler_, sampler_, delivery_, clock),
      executor_({backend, *cache_, operations_, prompt_logits_, scheduler_, costs_, sampler_,
                 late_masks_, delivery_, accounting_, watchdog_, trace_, clock},
                plan.learns),
      recovery_(executor_, scheduler_, backend, *cache_, prompt_logits_, operations_, delivery_,
                accounting_, clock) {}

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
  ++accounting_.counters().n_submitted;
}

void Engine::step(std::vector<Delta>& out) {
  const std::int64_t begin_ns = clock_.now_ns();
  Metrics& counters = accounting_.counters();
  const std::int64_t n_prefill_rows = counters.n_prefill_rows;
  cache_->expire_pins(begin_ns);
  end_overdue(begin_ns, out);
  late_masks_.sample(out);
  StepPlan& plan = scheduler_.prepare_step(begin_ns);
  operations_.apply(plan.kv_ops);
  if (plan.empty()) {
    late_masks_.wait();
    return;
  }
  const bool any_decode = plan.any_decode;
  counters.n_decode_steps += any_decode;
  restore(plan);
  sample_cached_prompts(plan, out);
  // Recovery replans while it still uses a call of this plan.
  std::swap(calls_, plan.calls);
  for (const CallPlan& call : calls_) {
    if (!recovery_.execute(call, out)) break;
  }
  const std::int64_t step_ns = clock_.now_ns() - begin_ns;
  ++counters.n_steps;
  counters.step_ns += step_ns;
  // Steps without decode rows take larger chunks.
  if (!learns_ || !any_decode) return;
  costs_.observe_step(static_cast<double>(step_ns));
  accounting_.observe_step(counters.n_prefill_rows - n_prefill_rows);
}

/// Ends requests that missed a deadline or are predicted to miss it.
void Engine::end_overdue(std::int64_t now, std::vector<Delta>& out) {
  while (Request* request = scheduler_.overdue(now)) {
    accounting_.observe_shed(*request, now);
    delivery_.end(*request, FinishReason::kDeadline, "", out);
  }
}

/// Restores cached data from lower tiers: all of it or, while requests decode, one piece per
/// request.
void Engine::restore(const StepPlan& plan) {
  if (plan.restores.empty()) return;
  accounting_.spend_all(TimeCategory::kEngine, clock_.now_ns());
  for (Request* request : plan.restores) {
    do {
      const auto tokens = request->tokens().first(request->admission.n_restorable);
      const std::int32_t n_cells = cache_->n_cells_to_restore(request->seq(), tokens);
      // Called before next_restore(): making room may move or evict the piece.
      const bool fits = n_cells > 0 && cache_->make_room(n_cells, operations_.pending());
      operations_.apply();
      const auto piece = fits ? cache_->next_restore(request->seq(), tokens) : std::nullopt;
      if (!piece) {
        request->admission.n_restorable = 0;  // the rest is computed
        break;
      }
      const bool loaded = backend_.load(request->seq(), piece->begin, piece->end, piece->data());
      cache_->restored(request->seq(), *piece, loaded);
      if (!loaded) continue;
      cache_->publish(request->seq(), tokens.first(piece->end), false, operations_.pending());
      operations_.apply();
      request->share(piece->end);
    } while (request->admission.n_restorable > request->kv_len() && !plan.any_decode);
    const std::int64_t now = clock_.now_ns();
    request->spend(TimeCategory::kPrefillShared, now);
    accounting_.spend_all(TimeCategory::kOthersPrefill, now);
  }
}

void Engine::sample_cached_prompts(const StepPlan& plan, std::vector<Delta>& out) {
  for (const KnownStart& start : plan.known_starts) {
    known_logits_.assign(start.logits.begin(), start.logits.end());  // sampling may write it
    SampledOutput sampled = sampler_.sample_row(*start.request, known_logits_);
    if (sampled.poisoned) throw std::logic_error("stored logits are not finite");
    StepGuard::commit_request(*start.request, start.request->kv_len(), sampled);
    ++accounting_.counters().n_prompt_logits_hits;
    delivery_.deliver(*start.request, sampled, clock_.now_ns(), out);
  }
}

void Engine::cancel(RequestId id, std::vector<Delta>& out) {
  if (Request* request = scheduler_.find(id))
    delivery_.end(*request, FinishReason::kCancelled, "", out);
}

void Engine::finish_all(FinishReason reason, const std::string& error, std::vector<Delta>& out) {
  const auto any = [this]() -> Request* {
    const auto& running = scheduler_.running();
    return running.empty() ? scheduler_.queue().any() : running.back().get();
  };
  while (Request* request = any()) {
    try {
      delivery_.end(*request, reason, error, out);
    } catch (const std::exception&) {
      // The backend may have failed, or memory for a delta is lacking: remove the request anyway.
      if (any() == request) scheduler_.take(*request);
      if (any() == request) throw;
    }
  }
}

void Engine::pin(const std::string& name, CacheNamespace space, std::vector<TokenId> tokens,
                 std::int64_t expires_ns) {
  cache_->pin(name, space, std::move(tokens), expires_ns);
}

void Engine::unpin(const std::string& name) { cache_->unpin(name); }

void Engine::clear_cache() {
  prompt_logits_.clear();
  cache_->clear(operations_.pending());
  operations_.apply();
}

void Engine::flush_cache() {
  while (cache_->flush_next(operations_.pending())) operations_.apply();
}

void Engine::report_load() { watchdog_.loads(clock_.now_ns(), accounting_.load()); }

Metrics Engine::metrics() const {
  Metrics m = accounting_.metrics();
  m.n_mask_waits = sampler_.n_waits();
  m.mask_wait_ns = sampler_.wait_ns();
  m.n_threads = executor_.n_threads();
  return m;
}

std::vector<std::optional<RequestProgress>> Engine::progress(std::span<const RequestId> ids) {
  const std::vector<RequestId> order = scheduler_.queue().expected_order();
  const std::int64_t now = clock_.now_ns();
  std::vector<std::optional<RequestProgress>> found;
  for (const RequestId id : ids) {
    const Request* request = find(id);
    found.push_back(request ? std::optional(request->progress(now)) : std::nullopt);
    if (!request || request->state() != Request::State::kWaiting) continue;
    const auto place = std::ranges::find(order, id) - order.begin();
    found.back()->queue_position = static_cast<std::int32_t>(place) + 1;
  }
  return found;
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

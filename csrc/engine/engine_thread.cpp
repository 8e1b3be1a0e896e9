#include "engine/engine_thread.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <new>
#include <stdexcept>
#include <utility>

#include "common/error.h"

namespace llamaherd {
namespace {

// Lower bound of retry-after times: 0 would cause immediate retries.
constexpr double kLeastRetryS = 1e-3;

std::int64_t deadline_ns(const std::optional<double>& seconds, std::int64_t now) {
  return seconds ? now + static_cast<std::int64_t>(*seconds * 1e9) : kNever;
}

/// Output 0 gets the seed of a request with a single output.
std::uint64_t seed_of(std::uint64_t seed, std::int32_t index) {
  return seed + static_cast<std::uint64_t>(index) * 0x9E3779B97F4A7C15u;
}

}  // namespace

EngineThread::EngineThread(std::unique_ptr<Backend> backend, Vocabulary table, const Limits& limits,
                           const PlanOptions& plan, Mode mode, const CacheOptions& cache,
                           const Clock& clock)
    : backend_(std::move(backend)),
      table_(std::move(table)),
      limits_(limits),
      mode_(mode),
      clock_(clock),
      engine_(*backend_, table_, limits_, plan, cache, clock),
      metrics_(engine_.metrics()),
      seeds_((static_cast<std::uint64_t>(std::random_device{}()) << 32) | std::random_device{}()) {
  if (mode_ == Mode::kThreaded) thread_ = std::thread([this] { run(); });
}

EngineThread::~EngineThread() { close(); }

void EngineThread::require_alive() const {
  if (!fatal_error_.empty()) {
    throw EngineDeadError("the engine stopped after a fatal error: " + fatal_error_);
  }
  if (closing_) throw EngineDeadError("the engine is closed");
}

RequestId EngineThread::submit(std::vector<TokenId> prompt, SharedValue<SamplingParams> params,
                               const SubmitOptions& options, const SchedulingOptions& scheduling) {
  validate(*params);
  validate(prompt, *params, limits_);
  validate(scheduling);
  const std::int32_t n_outputs = params->best_of.value_or(params->n);
  if (n_outputs > 1 && !options.cache_space) {
    throw InvalidRequestError("n and best_of must be 1 with cache=False; got " +
                              std::to_string(n_outputs) + " outputs");
  }
  if (options.constraint) require_mask_words(options.constraint->n_words());
  const std::int64_t now = clock_.now_ns();
  const std::size_t n_tokens = prompt.size();
  Submission submission{0, std::move(prompt), std::move(params), 0, now, options, {}, n_outputs};
  submission.options.key = {scheduling.priority, scheduling.tenant,
                            deadline_ns(scheduling.deadline_s, now),
                            deadline_ns(scheduling.ttft_deadline_s, now)};
  submission.options.constraint = nullptr;
  for (std::int32_t i = 0; options.constraint && i < n_outputs; ++i) {
    submission.constraints.push_back(options.constraint->clone(table_));
  }
  const std::lock_guard lock(mutex_);
  require_alive();
  require_place(n_outputs, n_tokens, now);
  submission.first = next_id_;
  submission.seed = submission.params->seed ? *submission.params->seed : seeds_();
  let_in(std::move(submission));
  next_id_ += n_outputs;
  n_tokens_queued_ += static_cast<std::int64_t>(n_tokens) * n_outputs;
  inbox_filled_.notify_one();
  return next_id_ - n_outputs;
}

/// Strong exception guarantee. Requires the mutex.
void EngineThread::let_in(Submission submission) {
  const RequestId first = submission.first;
  const std::int32_t n_outputs = submission.n_outputs;
  const auto n_prompt = static_cast<std::int32_t>(submission.prompt->size());
  try {
    for (std::int32_t i = 0; i < n_outputs; ++i) {
      Live& live = live_[first + i];
      live.index = i;
      live.n_prompt = n_prompt;
      live.progress = {.n_prompt = n_prompt,
                       .queue_position = std::max(1, n_live() - metrics_.n_running),
                       .time_ns = submission.submit_ns};
      if (!submission.constraints.empty()) live.constraint = submission.constraints[i];
    }
    inbox_.submissions.push_back(std::move(submission));
  } catch (...) {
    for (std::int32_t i = 0; i < n_outputs; ++i) live_.erase(first + i);
    throw;
  }
}

/// Throws if a queue limit is exceeded. Requests that can start immediately do not count as queued.
void EngineThread::require_place(std::int32_t n_outputs, std::size_t n_tokens,
                                 std::int64_t now) const {
  const std::int32_t n_free = metrics_.n_waiting == 0 ? metrics_.n_seqs - metrics_.n_running : 0;
  const std::int64_t n_waiting = std::int64_t{n_live()} - metrics_.n_running - n_free;
  if (limits_.max_queued) {
    const std::int64_t n_most = *limits_.max_queued;
    if (n_outputs > n_most + metrics_.n_seqs) {
      throw InvalidRequestError("a prompt may have at most max_queued + max_seqs (" +
                                std::to_string(n_most + metrics_.n_seqs) +
                                ") outputs, as each is queued as a request; got " +
                                std::to_string(n_outputs));
    }
    if (n_waiting + n_outputs > n_most) {
      throw QueueFullError("at most " + std::to_string(n_most) +
                               " requests may be queued (max_queued); " +
                               std::to_string(std::max<std::int64_t>(0, n_waiting)) +
                               " are queued and this prompt adds " + std::to_string(n_outputs),
                           retry_after_s(n_waiting + n_outputs - n_most, now));
    }
  }
  if (!limits_.max_queued_tokens || n_waiting < 0 || n_tokens_queued_ == 0) return;
  const auto n_new = static_cast<std::int64_t>(n_tokens) * n_outputs;
  const std::int64_t n_over = n_tokens_queued_ + n_new - *limits_.max_queued_tokens;
  if (n_over <= 0) return;
  const std::int64_t n_each = std::max<std::int64_t>(1, n_tokens_queued_ / (n_waiting + 1));
  throw QueueFullError(
      "at most " + std::to_string(*limits_.max_queued_tokens) +
          " prompt tokens may be queued (max_queued_tokens), counted per output; " +
          std::to_string(n_tokens_queued_) + " are queued and this prompt adds " +
          std::to_string(n_new),
      retry_after_s((n_over + n_each - 1) / n_each, now));
}

/// Forecast of the time until n_over waiting requests have started or been shed.
double EngineThread::retry_after_s(std::int64_t n_over, std::int64_t now) const {
  const double from_then_ns = forecast_.until_fewer_wait_ns(static_cast<std::int32_t>(n_over));
  return std::max(kLeastRetryS, 1e-9 * (from_then_ns - static_cast<double>(now - published_ns_)));
}

void EngineThread::hold() {
  const std::lock_guard lock(mutex_);
  ++n_holds_;
}

void EngineThread::release() {
  const std::lock_guard lock(mutex_);
  --n_holds_;
  inbox_filled_.notify_one();
}

void EngineThread::cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  if (closing_ || ended_) return;
  inbox_.cancels.push_back(id);
  inbox_filled_.notify_one();
  if (!live_.contains(id)) return;
  cancelled_.insert(id);
  if (cancelled_.size() == live_.size()) backend_->abort(true);
}

/// Takes the inbox. Requires the mutex.
EngineThread::Inbox EngineThread::take_inbox() {
  backend_->abort(false);
  cancelled_.clear();
  return std::exchange(inbox_, {});
}

/// Requires the mutex.
void EngineThread::command(CacheCommand command) {
  require_alive();
  inbox_.cache_commands.push_back(std::move(command));
  inbox_filled_.notify_one();
}

void EngineThread::pin(const std::string& name, CacheNamespace space, std::vector<TokenId> tokens,
                       std::int64_t expires_ns) {
  const std::lock_guard lock(mutex_);
  pins_.require_place(name, clock_.now_ns());
  command([=](Engine& engine) { engine.pin(name, space, tokens, expires_ns); });
  pins_.put(name, expires_ns);
}

void EngineThread::unpin(const std::string& name) {
  const std::lock_guard lock(mutex_);
  command([=](Engine& engine) { engine.unpin(name); });
  pins_.erase(name);
}

void EngineThread::clear_cache() {
  const std::lock_guard lock(mutex_);
  command([](Engine& engine) { engine.clear_cache(); });
  pins_.clear();
}

void EngineThread::require_mask_words(std::size_t n) const {
  const auto n_words = (static_cast<std::size_t>(limits_.n_vocab) + 31) / 32;
  if (n == n_words || n == 0) return;
  throw InvalidRequestError("a mask must have " + std::to_string(n_words) + " words; got " +
                            std::to_string(n));
}

/// The request's constraint; null if it has none or has ended. Requires the mutex.
Constraint* EngineThread::constraint_of(RequestId id) const {
  const auto at = live_.find(id);
  return at == live_.end() ? nullptr : at->second.constraint.get();
}

void EngineThread::set_mask(RequestId id, std::int32_t index, TokenMask mask) {
  require_mask_words(mask.size());
  const std::lock_guard lock(mutex_);
  if (Constraint* constraint = constraint_of(id)) constraint->put(index, std::move(mask));
}

void EngineThread::lift_mask(RequestId id) {
  const std::lock_guard lock(mutex_);
  if (Constraint* constraint = constraint_of(id)) constraint->lift();
}

void EngineThread::fail_mask(RequestId id, const std::string& error) {
  const std::lock_guard lock(mutex_);
  if (Constraint* constraint = constraint_of(id)) constraint->fail(error);
}

std::vector<Delta> EngineThread::drain(double timeout_s) {
  std::unique_lock lock(mutex_);
  outbox_filled_.wait_for(lock, std::chrono::duration<double>(timeout_s),
                          [this] { return !outbox_.empty() || ended_; });
  if (ended_) {
    // Retries what stop() could not do for lack of memory. If that fails again, drain() may be
    // called once more.
    for (auto live = live_.begin(); live != live_.end(); live = live_.erase(live)) {
      Delta& last = outbox_.emplace_back();
      last.request_id = live->first;
      last.index = live->second.index;
      last.n_prompt = live->second.n_prompt;
      last.n_completion = live->second.n_completion;
      last.finish_reason = FinishReason::kError;
      last.error = fatal_error_;
    }
  }
  return std::exchange(outbox_, {});
}

std::optional<RequestProgress> EngineThread::progress(RequestId id, double timeout_s) {
  std::unique_lock driving(drive_mutex_, std::defer_lock);
  if (mode_ == Mode::kStepped) driving.lock();
  std::unique_lock lock(mutex_);
  const auto live = [&] { return live_.find(id); };
  if (live() == live_.end()) return std::nullopt;
  if (!live()->second.asked) {
    asked_.push_back(id);
    live()->second.asked = true;
  }
  if (mode_ == Mode::kStepped) {
    update_progress();
  } else {
    progress_updated_.wait_for(lock, std::chrono::duration<double>(timeout_s),
                               [&] { return live() == live_.end() || !live()->second.asked; });
  }
  if (live() == live_.end()) return std::nullopt;
  return live()->second.progress;
}

/// Between two steps. Requires the mutex.
void EngineThread::update_progress() {
  std::erase_if(asked_, [this](RequestId id) { return !live_.contains(id); });
  const auto found = engine_.progress(asked_);
  for (std::size_t i = 0; i < asked_.size(); ++i) {
    Live& live = live_.at(asked_[i]);
    live.asked = false;
    if (found[i]) {
      live.progress = *found[i];
    } else {
      live.progress.time_ns = clock_.now_ns();  // still in the inbox
    }
  }
  asked_.clear();
  progress_updated_.notify_all();
}

void EngineThread::run() {
  try {
    for (;;) {
      Inbox inbox;
      {
        std::unique_lock lock(mutex_);
#ifndef NDEBUG
        if (inbox_.empty() && engine_.idle()) {
          const auto broken = violations(engine_.snapshot());
          if (!broken.empty()) throw std::logic_error(broken.front());
        }
#endif
        inbox_filled_.wait(lock, [this] {
          const bool has_work = !inbox_.empty() || !engine_.idle();
          return closing_ || (n_holds_ == 0 && has_work);
        });
        if (closing_) break;
        inbox = take_inbox();
      }
      iterate(inbox);
    }
    stop(FinishReason::kCancelled, "");
  } catch (const std::exception& error) {
    stop(FinishReason::kError, error.what());
  } catch (...) {
    stop(FinishReason::kError, "an unknown exception");
  }
}

bool EngineThread::step() {
  if (mode_ != Mode::kStepped) throw LlamaHerdError("step() requires threaded=False");
  const std::lock_guard driving(drive_mutex_);
  Inbox inbox;
  {
    const std::lock_guard lock(mutex_);
    require_alive();
    inbox = take_inbox();
  }
  try {
    iterate(inbox);
  } catch (const std::exception& error) {
    stop(FinishReason::kError, error.what());
    throw EngineDeadError(std::string("the engine stopped after a fatal error: ") + error.what());
  }
  return !engine_.idle();
}

void EngineThread::iterate(Inbox& inbox) {
  for (const CacheCommand& command : inbox.cache_commands) command(engine_);
  for (const Submission& submission : inbox.submissions) begin(submission);
  for (RequestId id : inbox.cancels) engine_.cancel(id, deltas_);
  engine_.report_load();
  engine_.step(deltas_);
  engine_.report_load();
  publish(false);
}

void EngineThread::begin(const Submission& s) {
  SubmitOptions options = s.options;
  for (std::int32_t i = 0; i < s.n_outputs; ++i) {
    options.index = i;
    if (!s.constraints.empty()) options.constraint = s.constraints[i];
    engine_.submit(s.first + i, s.prompt, s.params, seed_of(s.seed, i), s.submit_ns, options);
  }
}

void EngineThread::publish(bool ended) {
  const bool is_bounded = limits_.max_queued || limits_.max_queued_tokens;
  QueueForecast forecast = is_bounded ? engine_.forecast() : QueueForecast();
  const std::lock_guard lock(mutex_);
  const std::size_t n_before = outbox_.size();
  // If this throws, no delta has been moved and the requests are still live.
  outbox_.insert(outbox_.end(), std::make_move_iterator(deltas_.begin()),
                 std::make_move_iterator(deltas_.end()));
  deltas_.clear();
  for (std::size_t i = n_before; i < outbox_.size(); ++i) {
    const Delta& delta = outbox_[i];
    if (!delta.finish_reason) {
      live_.at(delta.request_id).n_completion = delta.n_completion;
      continue;
    }
    live_.erase(delta.request_id);
    cancelled_.erase(delta.request_id);
  }
  if (!asked_.empty()) update_progress();
  metrics_ = engine_.metrics();
  forecast_ = std::move(forecast);
  published_ns_ = clock_.now_ns();
  n_tokens_queued_ = engine_.n_tokens_waiting();
  for (const Submission& s : inbox_.submissions) {
    n_tokens_queued_ += static_cast<std::int64_t>(s.prompt->size()) * s.n_outputs;
  }
  ended_ = ended;
  if (outbox_.size() > n_before || ended) outbox_filled_.notify_all();
}

/// Closes the outbox. Every request gets its last delta, here or, if that fails, from drain().
void EngineThread::stop(FinishReason reason, const char* error) noexcept {
  try {
    finish_all(reason, error);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    closing_ = ended_ = true;
    if (fatal_error_.empty()) fatal_error_ = "out of memory";  // short enough for no allocation
    outbox_filled_.notify_all();
  }
  if (reason != FinishReason::kCancelled) return;
  try {
    engine_.flush_cache();
  } catch (...) {
    // Unsaved data is computed again when it is needed.
  }
}

/// Gives every request, including those in the inbox, its last delta and closes the outbox.
void EngineThread::finish_all(FinishReason reason, const char* error) {
  Inbox inbox;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    std::swap(inbox, inbox_);
    if (reason == FinishReason::kError) fatal_error_ = error;
  }
  for (const Submission& submission : inbox.submissions) begin(submission);
  engine_.finish_all(reason, error, deltas_);
  publish(true);
}

void EngineThread::close() {
  const std::lock_guard driving(drive_mutex_);
  bool ended;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    ended = ended_;
    inbox_filled_.notify_one();
  }
  if (backend_) backend_->abort(true);
  if (thread_.joinable()) {
    thread_.join();
  } else if (!ended) {
    stop(FinishReason::kCancelled, "");
  }
  backend_.reset();  // frees the model's memory before the last reference to this object is dropped
}

bool EngineThread::finished() const {
  const std::lock_guard lock(mutex_);
  return ended_ && outbox_.empty() && live_.empty();
}

std::string EngineThread::fatal_error() const {
  const std::lock_guard lock(mutex_);
  return fatal_error_;
}

Metrics EngineThread::metrics() const {
  const std::lock_guard lock(mutex_);
  return metrics_;
}

Health EngineThread::health() const {
  {
    const std::lock_guard lock(mutex_);
    Health health;
    if (!fatal_error_.empty()) health.reason = "stopped after a fatal error: " + fatal_error_;
    if (health.reason.empty() && closing_) health.reason = "closed";
    health.ok = health.reason.empty();
    if (!health.ok) return health;
  }
  return engine_.watchdog().health(clock_.now_ns());
}

std::string EngineThread::take_incident() {
  return engine_.watchdog().take_incident(clock_.now_ns());
}

}  // namespace llamaherd

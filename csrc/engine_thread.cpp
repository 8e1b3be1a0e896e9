#include "engine_thread.h"

#include <chrono>
#include <iterator>
#include <stdexcept>

#include "error.h"

namespace llamaherd {

EngineThread::EngineThread(std::unique_ptr<Backend> backend, TokenTable table, const Limits& limits,
                           const PlanOptions& plan, Mode mode, const CacheOptions& cache)
    : backend_(std::move(backend)),
      table_(std::move(table)),
      limits_(limits),
      mode_(mode),
      engine_(*backend_, table_, limits_, plan, cache),
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

RequestId EngineThread::submit(std::vector<TokenId> prompt, const SamplingParams& params,
                               const SubmitOptions& options) {
  validate(params);
  validate(prompt, params, limits_);
  Submission submission{0, std::move(prompt), params, 0, now_ns(), options};
  const std::lock_guard lock(mutex_);
  require_alive();
  submission.id = next_id_++;
  submission.seed = params.seed ? *params.seed : seeds_();
  inbox_.submissions.push_back(std::move(submission));
  inbox_filled_.notify_one();
  return inbox_.submissions.back().id;
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
}

void EngineThread::command(CacheCommand command) {
  const std::lock_guard lock(mutex_);
  require_alive();
  inbox_.cache_commands.push_back(std::move(command));
  inbox_filled_.notify_one();
}

void EngineThread::pin(const std::string& name, CacheSpace space, std::vector<TokenId> tokens,
                       std::int64_t expires_ns) {
  command([=](Engine& engine) { engine.pin(name, space, tokens, expires_ns); });
}

void EngineThread::unpin(const std::string& name) {
  command([=](Engine& engine) { engine.unpin(name); });
}

void EngineThread::clear_cache() {
  command([](Engine& engine) { engine.clear_cache(); });
}

std::vector<Delta> EngineThread::drain(double timeout_s) {
  std::unique_lock lock(mutex_);
  outbox_filled_.wait_for(lock, std::chrono::duration<double>(timeout_s),
                          [this] { return !outbox_.empty() || ended_; });
  return std::exchange(outbox_, {});
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
        std::swap(inbox, inbox_);
      }
      iterate(inbox);
    }
    stop(FinishReason::kCancelled, "");
  } catch (const std::exception& error) {
    stop(FinishReason::kError, error.what());
  }
}

bool EngineThread::step() {
  if (mode_ != Mode::kStepped) throw LlamaHerdError("step() needs an engine made unthreaded");
  const std::lock_guard driving(drive_mutex_);
  Inbox inbox;
  {
    const std::lock_guard lock(mutex_);
    require_alive();
    std::swap(inbox, inbox_);
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
  for (Submission& s : inbox.submissions) {
    engine_.submit(s.id, std::move(s.prompt), s.params, s.seed, s.submit_ns, s.options);
  }
  for (RequestId id : inbox.cancels) engine_.cancel(id, deltas_);
  engine_.step(deltas_);
  publish(false);
}

void EngineThread::publish(bool ended) {
  const std::lock_guard lock(mutex_);
  std::move(deltas_.begin(), deltas_.end(), std::back_inserter(outbox_));
  metrics_ = engine_.metrics();
  ended_ = ended;
  if (!deltas_.empty() || ended) outbox_filled_.notify_all();
  deltas_.clear();
}

/// Gives every request its last delta, those still in the inbox included, and ends the outbox.
void EngineThread::stop(FinishReason reason, const std::string& error) {
  Inbox inbox;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    if (reason == FinishReason::kError) fatal_error_ = error;
    std::swap(inbox, inbox_);
  }
  for (Submission& s : inbox.submissions) {
    engine_.submit(s.id, std::move(s.prompt), s.params, s.seed, s.submit_ns, s.options);
  }
  engine_.finish_all(reason, error, deltas_);
  publish(true);
  if (reason != FinishReason::kCancelled) return;
  try {
    engine_.flush_cache();
  } catch (const std::exception&) {
    // What is not saved will have to be computed again.
  }
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
  backend_.reset();  // the model's memory should not wait for the last reference to this
}

bool EngineThread::finished() const {
  const std::lock_guard lock(mutex_);
  return ended_ && outbox_.empty();
}

std::string EngineThread::fatal_error() const {
  const std::lock_guard lock(mutex_);
  return fatal_error_;
}

Metrics EngineThread::metrics() const {
  const std::lock_guard lock(mutex_);
  return metrics_;
}

}  // namespace llamaherd

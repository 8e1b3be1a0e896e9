#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "backend/backend.h"
#include "common/vocabulary.h"
#include "config/params.h"
#include "engine/engine.h"
#include "engine/pin_table.h"
#include "sampling/token_constraint.h"

namespace llamaherd {

/// An engine with a thread of its own, the only one that uses the backend. Requests enter through
/// an inbox, deltas leave through an outbox. All public methods may be called from any thread; only
/// drain(), progress(), step() and close() block.
class EngineThread {
 public:
  enum class Mode {
    kThreaded,
    kStepped,  // no thread: callers of step() run the engine, one at a time
  };

  EngineThread(std::unique_ptr<Backend> backend, Vocabulary table, const Limits& limits,
               const PlanOptions& plan, Mode mode, const CacheOptions& cache = {},
               const Clock& clock = steady_clock());
  ~EngineThread();  // calls close()
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  /// Queues one request per output (best_of, else n): all or none. Returns the first of their
  /// consecutive ids. Deadlines count from now. Throws InvalidRequestError, QueueFullError or, once
  /// closed or dead, EngineDeadError.
  RequestId submit(std::vector<TokenId> prompt, SharedValue<SamplingParams> params,
                   const SubmitOptions& options = {}, const SchedulingOptions& scheduling = {});

  /// While held, no new step begins, so that requests submitted meanwhile are planned together.
  /// Each hold() requires a release(). Does not wait for the current step.
  void hold();
  void release();

  /// Requests cancellation; the last delta has the finish reason. Unknown ids are ignored. If no
  /// other request is left, a decode call in progress is aborted if the backend supports it.
  void cancel(RequestId id);

  /// Operations on the prefix cache, executed between two steps; see PrefixCache. They do not block
  /// and throw EngineDeadError once closed or dead. pin() throws InvalidRequestError if the name is
  /// too long or there are too many pins.
  void pin(const std::string& name, CacheNamespace space, std::vector<TokenId> tokens,
           std::int64_t expires_ns);
  void unpin(const std::string& name);
  void clear_cache();

  /// Sets the mask of output token `index` (empty: all tokens allowed) of a request submitted with
  /// a Constraint; or allows all further tokens; or reports a failure, after which there are no
  /// masks. Ignored if the request has ended. Throws InvalidRequestError if the mask's size is
  /// neither 0 nor that of the vocabulary.
  void set_mask(RequestId id, std::int32_t index, TokenMask mask);
  void lift_mask(RequestId id);
  void fail_mask(RequestId id, const std::string& error);

  /// Progress of a request; none: its last delta was published. Waits up to `timeout_s` seconds for
  /// the end of a step, which updates it; without one, returns what the last call led to, at first
  /// an estimate. Only steps in which it is called take time for it.
  std::optional<RequestProgress> progress(RequestId id, double timeout_s);

  /// All deltas since the last call; waits up to `timeout_s` seconds for the first. Every request
  /// gets its last delta, even if the engine died for lack of memory.
  std::vector<Delta> drain(double timeout_s);

  /// Mode::kStepped: handles the inbox and runs one step. Returns whether work is left. Throws
  /// EngineDeadError if the engine has stopped or stops at a fatal error.
  bool step();

  /// Ends all requests with FinishReason::kCancelled, stops the thread and destroys the backend.
  /// Idempotent. Aborts a decode call in progress if the backend supports it.
  void close();

  /// True once closed or dead and every delta was drained.
  bool finished() const;

  /// The first fatal error, or empty.
  std::string fatal_error() const;

  Metrics metrics() const;
  Health health() const;
  /// A description of an incident, once; empty if there is no new one.
  std::string take_incident();
  TraceLog& trace() { return engine_.trace(); }
  const Vocabulary& table() const { return table_; }
  const Limits& limits() const { return limits_; }

 private:
  /// The requests of one prompt.
  struct Submission {
    RequestId first;
    SharedValue<std::vector<TokenId>> prompt;
    SharedValue<SamplingParams> params;
    std::uint64_t seed;
    std::int64_t submit_ns;
    SubmitOptions options;
    std::vector<std::shared_ptr<Constraint>> constraints;  // one per output, or none
    std::int32_t n_outputs;
  };
  using CacheCommand = std::function<void(Engine&)>;
  struct Inbox {
    std::vector<Submission> submissions;
    std::vector<RequestId> cancels;
    std::vector<CacheCommand> cache_commands;  // executed before the submissions
    bool empty() const { return submissions.empty() && cancels.empty() && cache_commands.empty(); }
  };

  /// A submitted request whose last delta was not published.
  struct Live {
    std::int32_t index = 0;  // index among the outputs of its prompt
    std::int32_t n_prompt = 0;
    std::int32_t n_completion = 0;  // published so far
    std::shared_ptr<Constraint> constraint;
    RequestProgress progress;
    bool asked = false;  // progress is to be updated
  };

  void command(CacheCommand command);
  void run();
  void iterate(Inbox& inbox);
  void begin(const Submission& submission);
  void publish(bool ended);
  void update_progress();
  void stop(FinishReason reason, const char* error) noexcept;
  void finish_all(FinishReason reason, const char* error);
  void require_alive() const;
  void require_mask_words(std::size_t n) const;
  void require_place(std::int32_t n_outputs, std::size_t n_tokens, std::int64_t now) const;
  void let_in(Submission submission);
  double retry_after_s(std::int64_t n_over, std::int64_t now) const;
  std::int32_t n_live() const { return static_cast<std::int32_t>(live_.size()); }
  Constraint* constraint_of(RequestId id) const;
  Inbox take_inbox();

  std::unique_ptr<Backend> backend_;
  const Vocabulary table_;
  const Limits limits_;
  const Mode mode_;
  const Clock& clock_;
  Engine engine_;              // engine thread only
  std::vector<Delta> deltas_;  // engine thread only

  mutable std::mutex mutex_;  // guards all members below
  std::condition_variable inbox_filled_;
  std::condition_variable outbox_filled_;
  std::condition_variable progress_updated_;
  Inbox inbox_;
  std::vector<Delta> outbox_;
  Metrics metrics_;
  QueueForecast forecast_;
  std::int64_t published_ns_ = 0;
  std::int64_t n_tokens_queued_ = 0;  // of prompts that are not running
  std::unordered_map<RequestId, Live> live_;
  std::vector<RequestId> asked_;             // live requests whose progress is to be updated
  std::unordered_set<RequestId> cancelled_;  // live requests whose cancellation is not yet executed
  PinTable pins_;
  RequestId next_id_ = 1;
  int n_holds_ = 0;
  std::mt19937_64 seeds_;
  bool closing_ = false;
  bool ended_ = false;  // no further delta will be published
  std::string fatal_error_;

  std::mutex drive_mutex_;  // serializes step() and close()
  std::thread thread_;
};

}  // namespace llamaherd

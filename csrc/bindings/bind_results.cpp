#include <pybind11/native_enum.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <array>

#include "bindings/bindings.h"
#include "common/types.h"
#include "telemetry/metrics.h"
#include "telemetry/trace_log.h"
#include "telemetry/watchdog.h"

namespace py = pybind11;

namespace llamaherd {
namespace {

double ratio(double part, double whole) { return whole > 0 ? part / whole : 0.0; }

py::typing::List<py::int_> token_ids(const Delta& delta) {
  py::typing::List<py::int_> ids;
  for (TokenId token : delta.token_ids) ids.append(token);
  return ids;
}

double batch_utilisation(const Metrics& m) {
  return ratio(static_cast<double>(m.n_decode_rows),
               static_cast<double>(m.n_decode_steps) * m.n_seqs);
}

double time_per_token_s(const Metrics& m) {
  return ratio(static_cast<double>(m.decode_ns) * 1e-9, static_cast<double>(m.n_decode_rows));
}

std::int64_t host_ns(const Metrics& m) {
  return m.step_ns - m.decode_ns - m.prefill_ns - m.sample_ns;
}

double hit_rate(const CacheMetrics& m) {
  const std::int64_t n_cached =
      m.n_from_running + m.n_from_finished + m.n_from_in_flight + m.n_from_ram + m.n_from_disk;
  return ratio(static_cast<double>(n_cached), static_cast<double>(m.n_looked_up));
}

py::typing::Dict<py::str, py::object> as_dict(const CacheMetrics& m) {
  py::typing::Dict<py::str, py::object> d;
#define LLAMAHERD_PUT(type, name, value, text) d[#name] = m.name;
  LLAMAHERD_CACHE_METRICS(LLAMAHERD_PUT)
#undef LLAMAHERD_PUT
  d["hit_rate"] = hit_rate(m);
  return d;
}

const char* name_of(TimeCategory kind) {
  static constexpr std::array<const char*, kSpentKinds> kNames = {
      "queued", "following",      "preempted",     "prefill",  "prefill_shared", "prefill_again",
      "decode", "others_prefill", "others_decode", "sampling", "engine"};
  return kNames[static_cast<std::size_t>(kind)];
}

py::typing::Dict<py::str, py::int_> as_dict(const TimeBreakdown& spent) {
  py::typing::Dict<py::str, py::int_> d;
  for (std::size_t i = 0; i < kSpentKinds; ++i) d[name_of(static_cast<TimeCategory>(i))] = spent[i];
  return d;
}

/// Metrics by name in the header's order, then derived ones.
py::typing::Dict<py::str, py::object> as_dict(const Metrics& m) {
  py::typing::Dict<py::str, py::object> d;
#define LLAMAHERD_PUT(type, name, value, text) d[#name] = m.name;
  LLAMAHERD_METRICS(LLAMAHERD_PUT)
#undef LLAMAHERD_PUT
  d["cache"] = as_dict(m.cache);
  d["host_ns"] = host_ns(m);
  d["batch_utilisation"] = batch_utilisation(m);
  d["time_per_token_s"] = time_per_token_s(m);
  return d;
}

}  // namespace

void bind_results(py::module_& m) {
  py::native_enum<FinishReason>(m, "FinishReason", "enum.Enum", "Why a request ended.")
      .value("STOP", FinishReason::kStop, "End-of-generation token, stop token or stop string.")
      .value("LENGTH", FinishReason::kLength, "max_tokens or max_len reached.")
      .value("CANCELLED", FinishReason::kCancelled, "By the caller, or the engine was closed.")
      .value("DEADLINE", FinishReason::kDeadline,
             "The deadline has passed, or was predicted to be missed.")
      .value("ERROR", FinishReason::kError, "See the delta's or the result's error.")
      .finalize();

  py::class_<Timing>(m, "Timing",
                     "Times of a request's events: nanoseconds of the steady clock "
                     "(time.monotonic_ns), 0 if not reached.")
      .def_readonly("submit_ns", &Timing::submit_ns)
      .def_readonly("start_ns", &Timing::start_ns, "First planned into a step.")
      .def_readonly("first_token_ns", &Timing::first_token_ns)
      .def_readonly("last_ns", &Timing::last_ns, "Time of this delta.")
      .def_readonly("n_preempted", &Timing::n_preempted, "Number of preemptions.")
      .def_property_readonly(
          "spent_ns", [](const Timing& t) { return as_dict(t.spent); },
          "Breakdown of last_ns - submit_ns; the parts sum to it. queued, following (waiting for a "
          "prefix that another request computes) and preempted: not running. prefill: its own "
          "prompt; prefill_shared: restored from the cache's lower tiers; prefill_again: "
          "recomputed after eviction. decode: its output tokens. others_prefill, others_decode: "
          "other requests' share of its steps. sampling: sampling. engine: all other time.")
      .def("__repr__", [](const Timing& t) {
        return py::str("Timing(submit_ns={}, start_ns={}, first_token_ns={}, last_ns={})")
            .format(t.submit_ns, t.start_ns, t.first_token_ns, t.last_ns);
      });

  py::class_<RequestProgress>(m, "RequestProgress",
                              "Progress of a request that has not ended. Read-only. Times: see "
                              "Timing.")
      .def_readonly("n_prompt", &RequestProgress::n_prompt, "Prompt tokens.")
      .def_readonly("n_cached", &RequestProgress::n_cached,
                    "Prompt tokens that were not computed because their KV data was cached.")
      .def_readonly("n_computed", &RequestProgress::n_computed,
                    "Prompt tokens in the KV cache, n_cached included; after a preemption 0 until "
                    "the request runs again.")
      .def_readonly("queue_position", &RequestProgress::queue_position,
                    "Place in the queue: 1: expected to be admitted next; 0: it runs. Requests "
                    "that arrive later may be admitted before it.")
      .def_readonly("n_preempted", &RequestProgress::n_preempted, "Number of preemptions.")
      .def_readonly("start_ns", &RequestProgress::start_ns, "First planned into a step.")
      .def_readonly("time_ns", &RequestProgress::time_ns, "When this was true.")
      .def("__repr__", [](const RequestProgress& p) {
        return py::str(
                   "RequestProgress(n_prompt={}, n_cached={}, n_computed={}, "
                   "queue_position={})")
            .format(p.n_prompt, p.n_cached, p.n_computed, p.queue_position);
      });

  py::class_<Health>(m, "Health", "Health of an engine. Read-only.")
      .def_readonly("ok", &Health::ok)
      .def_readonly("reason", &Health::reason, "Reason if not ok; else empty.")
      .def_readonly("since_progress_s", &Health::since_progress_s,
                    "Seconds since the last token was computed; 0 if idle.")
      .def_readonly("call_s", &Health::call_s,
                    "Seconds since the current decode call began; 0 if there is none.")
      .def_readonly("call_predicted_s", &Health::call_predicted_s,
                    "Predicted seconds of the current decode call.")
      .def_readonly("n_running", &Health::n_running)
      .def_readonly("n_waiting", &Health::n_waiting)
      .def("__repr__", [](const Health& h) {
        return py::str("Health(ok={}, reason={!r}, n_running={}, n_waiting={})")
            .format(h.ok, h.reason, h.n_running, h.n_waiting);
      });

  py::class_<TraceLog::Span>(m, "TraceSpan", "A time span of one request, by kind of work.")
      .def_readonly("request_id", &TraceLog::Span::id)
      .def_property_readonly("kind", [](const TraceLog::Span& s) { return name_of(s.kind); })
      .def_readonly("begin_ns", &TraceLog::Span::begin_ns)
      .def_readonly("end_ns", &TraceLog::Span::end_ns);
  py::class_<TraceLog::Call>(m, "TraceCall", "One decode call.")
      .def_readonly("begin_ns", &TraceLog::Call::begin_ns)
      .def_readonly("end_ns", &TraceLog::Call::end_ns)
      .def_readonly("predicted_ns", &TraceLog::Call::predicted_ns)
      .def_readonly("n_decode_rows", &TraceLog::Call::n_decode_rows)
      .def_readonly("n_prefill_rows", &TraceLog::Call::n_prefill_rows)
      .def_readonly("n_padding_rows", &TraceLog::Call::n_padding_rows)
      .def_readonly("n_waiting", &TraceLog::Call::n_waiting)
      .def_readonly("n_cells_used", &TraceLog::Call::n_cells_used);

  py::class_<TokenLogprob>(m, "TokenLogprob",
                           "Log-probability of a token by the model, before penalties, biases, "
                           "masks and temperature. Read-only.")
      .def_readonly("token_id", &TokenLogprob::token)
      .def_readonly("logprob", &TokenLogprob::logprob, "Natural logarithm of its probability.")
      .def_readonly("rank", &TokenLogprob::rank,
                    "1: the most likely token; equal logits are ordered by id.")
      .def_readonly("text_offset", &TokenLogprob::text_offset,
                    "Characters of the text before the token: of the output, or of the prompt for "
                    "prompt tokens; with echo, of prompt and output together.")
      .def_readonly("top", &TokenLogprob::top,
                    "(token id, logprob) of the most likely tokens, in descending order.")
      .def("__repr__", [](const TokenLogprob& t) {
        return py::str("TokenLogprob(token_id={}, logprob={}, rank={})")
            .format(t.token, t.logprob, t.rank);
      });

  py::class_<Delta>(m, "Delta",
                    "New tokens and text of one request in one step. Read-only. Exactly one delta "
                    "per request has a finish_reason: the last.")
      .def_readonly("request_id", &Delta::request_id)
      .def_property_readonly("token_ids", &token_ids, "New output tokens, a list of int.")
      .def_readonly("text", &Delta::text,
                    "New text, always valid UTF-8. Held back while a character or a possible stop "
                    "string is incomplete.")
      .def_readonly("finish_reason", &Delta::finish_reason, "None until the last delta.")
      .def_readonly("error", &Delta::error, "Set if finish_reason is ERROR, else empty.")
      .def_readonly("n_prompt", &Delta::n_prompt, "Prompt tokens.")
      .def_readonly("n_cached", &Delta::n_cached,
                    "Prompt tokens that were not computed because their KV data was cached.")
      .def_readonly("n_completion", &Delta::n_completion, "Output tokens so far.")
      .def_readonly("index", &Delta::index, "Index of the output, in [0, n).")
      .def_readonly("logprobs", &Delta::logprobs,
                    "With SamplingParams.logprobs: one TokenLogprob for each of token_ids.")
      .def_readonly("prompt_logprobs", &Delta::prompt_logprobs,
                    "With SamplingParams.prompt_logprobs: log-probabilities of prompt tokens, all "
                    "in one delta.")
      .def_readonly("timing", &Delta::timing)
      .def("__repr__", [](const Delta& d) {
        return py::str("Delta(request_id={}, token_ids={}, text={!r}, finish_reason={})")
            .format(d.request_id, token_ids(d), d.text, d.finish_reason);
      });

#define LLAMAHERD_CACHE_ATTRIBUTE(type, name, value, text) \
  .def_readonly(#name, &CacheMetrics::name, text)
#define LLAMAHERD_ATTRIBUTE(type, name, value, text) .def_readonly(#name, &Metrics::name, text)
  py::class_<CacheMetrics>(
      m, "CacheMetrics",
      "Counters of an engine's prefix cache since its construction, in tokens unless stated "
      "otherwise, and its current state.") LLAMAHERD_CACHE_METRICS(LLAMAHERD_CACHE_ATTRIBUTE)
      .def_property_readonly("hit_rate", &hit_rate,
                             "Fraction of n_looked_up found in the cache; 0 if n_looked_up is 0.")
      .def("as_dict", py::overload_cast<const CacheMetrics&>(&as_dict), "All metrics by name.");
  py::class_<Metrics>(
      m, "Metrics",
      "Counters of an engine since its construction (n_*: counts; *_ns: nanoseconds of the engine "
      "thread), and its current state.") LLAMAHERD_METRICS(LLAMAHERD_ATTRIBUTE)
      .def_readonly("cache", &Metrics::cache)
      .def_property_readonly("host_ns", &host_ns,
                             "Part of step_ns outside model calls and sampling.")
      .def_property_readonly("batch_utilisation", &batch_utilisation,
                             "Mean fraction of max_seqs that decodes, per step with decode rows.")
      .def_property_readonly("time_per_token_s", &time_per_token_s,
                             "Seconds of model calls per output token.")
      .def("as_dict", py::overload_cast<const Metrics&>(&as_dict),
           "All metrics by name; those of the prefix cache under 'cache'.")
      .def("__repr__",
           [](const Metrics& self) { return py::str("Metrics({})").format(as_dict(self)); });
}

}  // namespace llamaherd

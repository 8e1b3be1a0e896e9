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
#define LLAMAHERD_PUT(field) d[#field] = m.field
  LLAMAHERD_PUT(n_looked_up);
  LLAMAHERD_PUT(n_from_running);
  LLAMAHERD_PUT(n_from_finished);
  LLAMAHERD_PUT(n_from_in_flight);
  LLAMAHERD_PUT(n_from_ram);
  LLAMAHERD_PUT(n_from_disk);
  LLAMAHERD_PUT(n_evicted_for_cells);
  LLAMAHERD_PUT(n_evicted_for_holders);
  LLAMAHERD_PUT(n_evicted_by_clear);
  LLAMAHERD_PUT(n_saved);
  LLAMAHERD_PUT(n_dropped_ram);
  LLAMAHERD_PUT(n_dropped_disk);
  LLAMAHERD_PUT(n_damaged);
  LLAMAHERD_PUT(n_followers);
  LLAMAHERD_PUT(follower_wait_ns);
  LLAMAHERD_PUT(n_holders);
  LLAMAHERD_PUT(n_holders_used);
  LLAMAHERD_PUT(n_pins);
  LLAMAHERD_PUT(n_nodes);
  LLAMAHERD_PUT(n_cells_reclaimable);
  LLAMAHERD_PUT(n_bytes_ram);
  LLAMAHERD_PUT(n_bytes_disk);
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

/// The metrics by name, in the header's order, derived ones last.
py::typing::Dict<py::str, py::object> as_dict(const Metrics& m) {
  py::typing::Dict<py::str, py::object> d;
#define LLAMAHERD_PUT(field) d[#field] = m.field
  LLAMAHERD_PUT(n_steps);
  LLAMAHERD_PUT(n_decode_steps);
  LLAMAHERD_PUT(n_decode_calls);
  LLAMAHERD_PUT(n_decode_rows);
  LLAMAHERD_PUT(n_prefill_calls);
  LLAMAHERD_PUT(n_prefill_rows);
  LLAMAHERD_PUT(n_pad_rows);
  LLAMAHERD_PUT(n_output_tokens);
  LLAMAHERD_PUT(n_drafted);
  LLAMAHERD_PUT(n_draft_accepted);
  LLAMAHERD_PUT(n_known_starts);
  LLAMAHERD_PUT(n_submitted);
  LLAMAHERD_PUT(n_finished_stop);
  LLAMAHERD_PUT(n_finished_length);
  LLAMAHERD_PUT(n_finished_cancelled);
  LLAMAHERD_PUT(n_finished_deadline);
  LLAMAHERD_PUT(n_finished_error);
  LLAMAHERD_PUT(n_shed);
  LLAMAHERD_PUT(n_preempted);
  LLAMAHERD_PUT(n_no_room);
  LLAMAHERD_PUT(n_invalid_batch);
  LLAMAHERD_PUT(n_aborted);
  LLAMAHERD_PUT(n_failed);
  LLAMAHERD_PUT(n_poisoned_rows);
  LLAMAHERD_PUT(n_cache_rebuilds);
  LLAMAHERD_PUT(n_sequences_dropped);
  LLAMAHERD_PUT(step_ns);
  LLAMAHERD_PUT(decode_ns);
  LLAMAHERD_PUT(prefill_ns);
  LLAMAHERD_PUT(sample_ns);
  LLAMAHERD_PUT(n_mask_waits);
  LLAMAHERD_PUT(mask_wait_ns);
  LLAMAHERD_PUT(prefill_budget_ns);
  LLAMAHERD_PUT(pace);
  LLAMAHERD_PUT(n_threads);
  LLAMAHERD_PUT(n_running);
  LLAMAHERD_PUT(n_waiting);
  LLAMAHERD_PUT(n_seqs);
  LLAMAHERD_PUT(n_cells);
  LLAMAHERD_PUT(n_cells_used);
  LLAMAHERD_PUT(n_cells_reserved);
  LLAMAHERD_PUT(n_cells_used_max);
#undef LLAMAHERD_PUT
  d["cache"] = as_dict(m.cache);
  d["host_ns"] = host_ns(m);
  d["batch_utilisation"] = batch_utilisation(m);
  d["time_per_token_s"] = time_per_token_s(m);
  return d;
}

}  // namespace

void bind_results(py::module_& m) {
  py::native_enum<FinishReason>(m, "FinishReason", "enum.Enum", "How a request ended.")
      .value("STOP", FinishReason::kStop, "End-of-generation token, stop token or stop string.")
      .value("LENGTH", FinishReason::kLength, "max_tokens or max_len reached.")
      .value("CANCELLED", FinishReason::kCancelled, "By the caller, or the engine was closed.")
      .value("DEADLINE", FinishReason::kDeadline,
             "Its deadline has passed, or could not be kept any more.")
      .value("ERROR", FinishReason::kError, "See the delta's or the result's error.")
      .finalize();

  py::class_<Timing>(m, "Timing",
                     "Moments of a request's life: nanoseconds of the steady clock "
                     "(time.monotonic_ns), 0 if not reached.")
      .def_readonly("submit_ns", &Timing::submit_ns)
      .def_readonly("start_ns", &Timing::start_ns, "First planned into a step.")
      .def_readonly("first_token_ns", &Timing::first_token_ns)
      .def_readonly("last_ns", &Timing::last_ns, "This delta was made.")
      .def_readonly("n_preempted", &Timing::n_preempted,
                    "Times it had to wait again so that others could run.")
      .def_property_readonly(
          "spent_ns", [](const Timing& t) { return as_dict(t.spent); },
          "Where last_ns - submit_ns went, to which it adds up. queued, following (waiting for a "
          "prefix that another computes) and preempted: waiting. prefill: its own prompt; "
          "prefill_shared: brought back from the cache's lower tiers; prefill_again: computed "
          "before and lost. decode: its next tokens. others_prefill, others_decode: others' part "
          "of its steps. sampling. engine: all else.")
      .def("__repr__", [](const Timing& t) {
        return py::str("Timing(submit_ns={}, start_ns={}, first_token_ns={}, last_ns={})")
            .format(t.submit_ns, t.start_ns, t.first_token_ns, t.last_ns);
      });

  py::class_<Health>(m, "Health", "How an engine does. Read-only.")
      .def_readonly("ok", &Health::ok)
      .def_readonly("reason", &Health::reason, "Why not ok; else empty.")
      .def_readonly("since_progress_s", &Health::since_progress_s,
                    "Seconds since a token was computed; 0 if there is nothing to do.")
      .def_readonly("call_s", &Health::call_s,
                    "Seconds that the decode call under way has taken; 0: none is.")
      .def_readonly("call_predicted_s", &Health::call_predicted_s, "And was predicted to take.")
      .def_readonly("n_running", &Health::n_running)
      .def_readonly("n_waiting", &Health::n_waiting)
      .def("__repr__", [](const Health& h) {
        return py::str("Health(ok={}, reason={!r}, n_running={}, n_waiting={})")
            .format(h.ok, h.reason, h.n_running, h.n_waiting);
      });

  py::class_<TraceLog::Span>(m, "TraceSpan", "What one request's time went into for a while.")
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
      .def_readonly("n_pad_rows", &TraceLog::Call::n_pad_rows)
      .def_readonly("n_waiting", &TraceLog::Call::n_waiting)
      .def_readonly("n_cells_used", &TraceLog::Call::n_cells_used);

  py::class_<TokenLogprob>(m, "TokenLogprob",
                           "How likely a token was by the model itself: without penalties, biases, "
                           "masks and temperature. Read-only.")
      .def_readonly("token_id", &TokenLogprob::token)
      .def_readonly("logprob", &TokenLogprob::logprob, "Natural logarithm of its probability.")
      .def_readonly("rank", &TokenLogprob::rank, "1: the likeliest token; equals by id.")
      .def_readonly("text_offset", &TokenLogprob::text_offset,
                    "Characters of the text that begin before it: of the output, of a prompt token "
                    "the prompt's, with echo of both together.")
      .def_readonly("top", &TokenLogprob::top,
                    "(token id, logprob) of the likeliest tokens, best first.")
      .def("__repr__", [](const TokenLogprob& t) {
        return py::str("TokenLogprob(token_id={}, logprob={}, rank={})")
            .format(t.token, t.logprob, t.rank);
      });

  py::class_<Delta>(m, "Delta",
                    "What one request gained in one step. Read-only. Exactly one delta per "
                    "request has a finish_reason, and it is the last.")
      .def_readonly("request_id", &Delta::request_id)
      .def_property_readonly("token_ids", &token_ids, "New output tokens, a list of int.")
      .def_readonly("text", &Delta::text,
                    "New text, always valid UTF-8. Lags token_ids while a character or a "
                    "possible stop string is incomplete.")
      .def_readonly("finish_reason", &Delta::finish_reason, "None until the last delta.")
      .def_readonly("error", &Delta::error, "Set if finish_reason is ERROR, else empty.")
      .def_readonly("n_prompt", &Delta::n_prompt, "Prompt tokens.")
      .def_readonly("n_cached", &Delta::n_cached, "Prompt tokens that did not have to be computed.")
      .def_readonly("n_completion", &Delta::n_completion, "Output tokens so far.")
      .def_readonly("index", &Delta::index, "Of the output, in [0, n).")
      .def_readonly("logprobs", &Delta::logprobs,
                    "With SamplingParams.logprobs: one TokenLogprob for each of token_ids.")
      .def_readonly("prompt_logprobs", &Delta::prompt_logprobs,
                    "With SamplingParams.prompt_logprobs, in one delta: of prompt tokens.")
      .def_readonly("timing", &Delta::timing)
      .def("__repr__", [](const Delta& d) {
        return py::str("Delta(request_id={}, token_ids={}, text={!r}, finish_reason={})")
            .format(d.request_id, token_ids(d), d.text, d.finish_reason);
      });

  py::class_<Metrics>(m, "Metrics",
                      "An engine's counters (n_*: how often; *_ns: nanoseconds of the engine's "
                      "thread) since it was made, and how it stands. Every key of as_dict() is an "
                      "attribute.")
      .def("as_dict", py::overload_cast<const Metrics&>(&as_dict),
           "All figures by name; the prefix cache's under 'cache'.")
      .def("__getattr__",
           [](const Metrics& self, const std::string& name) -> py::object {
             const py::dict all = as_dict(self);
             if (!all.contains(name)) {
               throw py::attribute_error("Metrics has no figure '" + name + "'");
             }
             return all[name.c_str()];
           })
      .def("__repr__",
           [](const Metrics& self) { return py::str("Metrics({})").format(as_dict(self)); });
}

}  // namespace llamaherd

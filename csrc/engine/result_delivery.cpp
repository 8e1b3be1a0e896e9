#include "engine/result_delivery.h"

#include <memory>
#include <utility>

namespace llamaherd {

void ResultDelivery::deliver(Request& request, const SampledOutput& sampled, std::int64_t now,
                             std::vector<Delta>& out) {
  if (!sampled.error.empty()) {
    end(request, FinishReason::kError, sampled.error, out);
  } else if (sampled.token) {
    deliver_token(request, now, out);
  }
}

void ResultDelivery::deliver_token(Request& request, std::int64_t now, std::vector<Delta>& out) {
  const std::int32_t n_before = request.n_shown();
  Delta delta = request.take_delta(now);
  if (!request.forced()) {
    accounting_.counters().n_output_tokens += delta.n_completion - n_before;
  }
  const auto reason = delta.finish_reason;
  const auto request_ns = static_cast<double>(now - delta.timing.start_ns);
  if (!reason && !request.delivery.streamed) {
    request.hold(std::move(delta));
    return;
  }
  out.push_back(std::move(delta));
  if (!reason) return;
  accounting_.completed(request, *reason, request_ns);
  release(request);
}

void ResultDelivery::end(Request& request, FinishReason reason, const std::string& error,
                         std::vector<Delta>& out) {
  out.push_back(request.finish(reason, error, clock_.now_ns()));
  accounting_.finished(reason);
  release(request);
}

void ResultDelivery::release(Request& request) {
  // Removed from the scheduler first: if the backend throws, the request must not be ended twice.
  const std::unique_ptr<Request> owned = scheduler_.take(request);
  if (owned->seq() == kNoSeq) return;
  pool_.release(owned->seq());
  cache_.release(owned->seq(), owned->tokens(), operations_.pending());
  operations_.apply();
}

}  // namespace llamaherd

#include "warmup.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "budget.h"
#include "error.h"

namespace llamaherd {
namespace {

struct Shape {
  std::int32_t n_seqs;
  std::int32_t n_rows_each;
};

std::vector<Shape> shapes_in_use(const BackendInfo& info) {
  std::vector<Shape> shapes;
  const std::int32_t n_max = std::min(info.n_seqs, info.n_ctx);
  for (std::int32_t n = 1; n < n_max; n *= 2) shapes.push_back({n, 1});
  shapes.push_back({n_max, 1});
  shapes.push_back({1, std::min({kChunkRows, info.n_batch, info.n_ctx})});
  return shapes;
}

/// Fills rows of the shape with token 0 and decodes them.
DecodeStatus decode(Backend& backend, const Shape& shape) {
  std::vector<TokenId> tokens;
  std::vector<Pos> positions;
  std::vector<SeqId> seqs;
  std::vector<std::uint8_t> wants_logits;
  for (SeqId seq = 0; seq < shape.n_seqs; ++seq) {
    for (Pos pos = 0; pos < shape.n_rows_each; ++pos) {
      tokens.push_back(0);
      positions.push_back(pos);
      seqs.push_back(seq);
      wants_logits.push_back(pos + 1 == shape.n_rows_each);
    }
  }
  return backend.decode({tokens, positions, seqs, wants_logits});
}

void forget(Backend& backend, std::int32_t n_seqs) {
  for (SeqId seq = 0; seq < n_seqs; ++seq) backend.apply({KvOp::Kind::kRemove, seq, 0, -1});
}

class Clock {
 public:
  double elapsed_s() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

/// Seconds that one call of the shape takes. Leaves its rows in the cache.
double time_call(Backend& backend, const Shape& shape) {
  const Clock clock;
  try {
    if (decode(backend, shape) != DecodeStatus::kOk) throw ModelLoadError("it was refused");
  } catch (const std::exception& error) {
    throw ModelLoadError("the model cannot decode " +
                         std::to_string(shape.n_seqs * shape.n_rows_each) +
                         " rows: " + error.what());
  }
  return clock.elapsed_s();
}

/// What it takes to bring one position back, from the n that sequence 0 holds: what does not grow
/// with n is left at its default.
double load_token_ns(Backend& backend, Pos n) {
  const std::vector<std::byte> data = backend.save(0, 0, n);
  forget(backend, 1);
  const Clock clock;
  backend.load(0, 0, n, data);
  return clock.elapsed_s() * 1e9 / n;
}

}  // namespace

Costs warm_up(Backend& backend, double budget_s) {
  const Clock clock;
  const std::vector<Shape> shapes = shapes_in_use(backend.info());
  Costs costs;
  double last_s = 0;
  const auto fits = [&] { return clock.elapsed_s() + 2 * last_s <= budget_s; };
  const auto run = [&](const Shape& shape) {
    last_s = time_call(backend, shape);
    forget(backend, shape.n_seqs);
    return last_s;
  };
  for (const Shape& shape : shapes) {
    if (!fits()) return costs;
    run(shape);
  }
  // A second time, without page faults.
  if (!fits()) return costs;
  costs.step_ns = run(shapes.front()) * 1e9;
  const Shape chunk = shapes.back();
  if (!fits()) return costs;
  costs.prefill_token_ns = time_call(backend, chunk) * 1e9 / chunk.n_rows_each;
  if (backend.info().partial_removal && backend.info().n_tags > 0) {
    costs.load_token_ns = load_token_ns(backend, chunk.n_rows_each);
  }
  forget(backend, 1);
  return costs;
}

}  // namespace llamaherd

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

/// Fills rows of the shape with token 0, decodes them, and takes them out of the cache again.
DecodeStatus run(Backend& backend, const Shape& shape) {
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
  const DecodeStatus status = backend.decode({tokens, positions, seqs, wants_logits});
  for (SeqId seq = 0; seq < shape.n_seqs; ++seq) {
    backend.apply({KvOp::Kind::kRemove, seq, 0, -1});
  }
  return status;
}

}  // namespace

void warm_up(Backend& backend, double budget_s) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto elapsed_s = [&] {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  double last_s = 0;
  for (const Shape& shape : shapes_in_use(backend.info())) {
    if (elapsed_s() + 2 * last_s > budget_s) return;
    const double before_s = elapsed_s();
    try {
      if (run(backend, shape) != DecodeStatus::kOk) throw ModelLoadError("it was refused");
    } catch (const std::exception& error) {
      throw ModelLoadError("the model cannot decode " +
                           std::to_string(shape.n_seqs * shape.n_rows_each) +
                           " rows: " + error.what());
    }
    last_s = elapsed_s() - before_s;
  }
}

}  // namespace llamaherd

#include "cost/calibration.h"

#include <algorithm>
#include <bit>
#include <map>
#include <string>
#include <vector>

#include "common/error.h"
#include "cost/decode_batching.h"

namespace llamaherd {
namespace {

// Deep enough for a measurable attention time, short enough for the time limit.
constexpr Pos kDepth = 512;
constexpr std::int32_t kDeepSeqs = 8;
constexpr int kDoubts = 3;
// The differences to be measured are a few percent.
constexpr int kDepthRuns = 5;

std::int32_t largest_power_of_2(std::int32_t n) {
  return std::int32_t(std::bit_floor(std::uint32_t(n)));
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

class Calibrator {
 public:
  Calibrator(Backend& backend, const CalibrationOptions& options)
      : backend_(backend),
        options_(options),
        info_(backend.info()),
        n_chunk_max_(std::min(info_.n_batch, info_.n_ctx)),
        begin_ns_(options.clock.now_ns()),
        budget_ns_(options.budget_s * 1e9) {}

  void warm_up() {
    for (const std::int32_t n : first_shapes()) measure(n, false);
  }

  Calibration run() {
    warm_up();
    for (const std::int32_t n : first_shapes()) {
      measure(n, true);
      if (n == 1 && best_ns_.contains(1)) {
        budget_ns_ = std::max(budget_ns_, options_.n_steps * best_ns_.at(1));
      }
    }
    if (best_ns_.empty()) return CostModel().calibration();
    measure_depth();
    // Two passes over all shapes; the shorter time counts.
    for (int pass = 0; pass < 2; ++pass) {
      for (const std::int32_t n : all_shapes()) {
        if (pass == 1 || !best_ns_.contains(n)) measure(n, true);
      }
    }
    for (int round = 0; round < kDoubts; ++round) measure_avoided();
    measure(1, true);
    result_.noise = median(ratios_);
    result_.points = points();
    return result_;
  }

 private:
  std::vector<std::int32_t> first_shapes() const {
    std::vector<std::int32_t> shapes;
    for (std::int32_t n = 1; n < n_decode_max(); n *= 2) shapes.push_back(n);
    shapes.push_back(n_decode_max());
    if (n_chunk_max_ >= kChunkRows && n_decode_max() < kChunkRows) shapes.push_back(kChunkRows);
    return shapes;
  }

  std::vector<std::int32_t> all_shapes() const {
    std::vector<std::int32_t> shapes;
    for (std::int32_t n = 1; n <= n_decode_max(); ++n) shapes.push_back(n);
    for (std::int32_t n : {24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048}) {
      if (n > n_decode_max() && n <= n_chunk_max_) shapes.push_back(n);
    }
    for (std::int32_t n = n_decode_max() + 1; n <= n_guess_max(); ++n) shapes.push_back(n);
    return shapes;
  }

  std::vector<Calibration::Point> points() const {
    std::vector<Calibration::Point> points;
    for (const auto& [n_rows, ns] : best_ns_) {
      points.push_back({n_rows, ns - own_attention_ns(n_rows, ns)});
    }
    return points;
  }

  std::int32_t n_decode_max() const { return std::min(info_.n_seqs, n_chunk_max_); }
  std::int32_t n_guess_max() const {
    return std::min({kRowsWithLogits, n_chunk_max_, info_.n_seqs + info_.max_scored_rows});
  }

  /// Runs n rows on an empty cache if there is time: decode rows of n sequences if n is within
  /// their number, else a prefill chunk of one sequence.
  void measure(std::int32_t n, bool noted) {
    if (!fits(n)) return;
    const bool decodes = n <= n_decode_max();
    const double ns = time_rows(0, decodes ? n : 1, 0, decodes ? 1 : n);
    ++n_runs_[n];
    forget(decodes ? n : 1);
    last_ = {n, ns};
    if (noted) note(n, ns);
  }

  /// Interruptions only make calls longer. A number of rows that batching would avoid may be slow
  /// only by such an error, and would never be measured again: measure it once more.
  void measure_avoided() {
    Calibration so_far;
    so_far.points = points();
    const CostModel model(so_far);
    DecodeBatching widths(n_decode_max(), info_.pad_seq == kNoSeq ? 0 : n_decode_max());
    for (std::int32_t n = 2; n <= n_decode_max(); ++n) {
      const bool runs_whole = widths.of(n, model).front() == DecodeBatch{n, 0};
      if (!runs_whole || widths.most_productive(n, model) != n) measure(n, true);
    }
  }

  /// Measures the additional cost of rows of sequences with cached tokens.
  void measure_depth() {
    const std::int32_t n_deep = std::min(kDeepSeqs, largest_power_of_2(n_decode_max()));
    const Pos depth =
        std::min({kDepth, n_chunk_max_, info_.n_ctx - 2 * kChunkRows - kDepthRuns * kDeepSeqs});
    if (depth < kChunkRows || !fits(depth)) return;
    // A difference of times is sensitive to interrupted calls: repeat.
    for (const std::int32_t n : {n_deep, kChunkRows}) {
      for (int run = 1; run < kDepthRuns && best_ns_.contains(n); ++run) measure(n, true);
    }
    note(depth, time_rows(0, 1, 0, depth));
    if (info_.partial_removal && info_.n_holders > 0) measure_loading(depth);
    for (SeqId seq = 1; seq < n_deep; ++seq) {
      backend_.copy(0, seq, 0, depth);
    }
    Pos begin = depth;
    // (The cost of a scanned cell is below the noise at such depths; it is learned from calls.)
    result_.few.attended_ns =
        attended_ns(n_deep, depth, kDepthRuns, [&] { return time_rows(0, n_deep, begin++, 1); });
    result_.many.attended_ns = attended_ns(kChunkRows, depth, 2, [&] {
      const double ns = time_rows(0, 1, begin, kChunkRows);
      begin += kChunkRows;
      return ns;
    });
    forget(n_deep);
  }

  /// Measures restoring one position of the n in sequence 0. The part that does not grow with n
  /// keeps its default.
  void measure_loading(Pos n) {
    const std::vector<std::byte> data = backend_.save(0, 0, n);
    forget(1);
    const std::int64_t begin_ns = options_.clock.now_ns();
    backend_.load(0, 0, n, data);
    result_.load_token_ns = static_cast<double>(options_.clock.now_ns() - begin_ns) / n;
  }

  /// Attention time per cell and row, from calls of n rows after `depth` cells; 0: unknown.
  double attended_ns(std::int32_t n, Pos depth, int n_runs, const std::function<double()>& time) {
    if (!best_ns_.contains(n) || !fits(n)) return 0;
    double behind_ns = time();
    while (--n_runs > 0 && fits(n)) behind_ns = std::min(behind_ns, time());
    return std::max(0.0, (behind_ns - best_ns_.at(n)) / (static_cast<double>(n) * depth));
  }

  /// Nanoseconds of a call with n_each rows per sequence. The rows stay in the cache.
  double time_rows(SeqId first_seq, std::int32_t n_seqs, Pos begin, std::int32_t n_each) {
    std::vector<Pos> positions;
    std::vector<SeqId> seqs;
    std::vector<std::uint8_t> wants_logits;
    for (SeqId seq = first_seq; seq < first_seq + n_seqs; ++seq) {
      for (Pos pos = begin; pos < begin + n_each; ++pos) {
        positions.push_back(pos);
        seqs.push_back(seq);
        wants_logits.push_back(pos + 1 == begin + n_each || n_seqs * n_each <= n_guess_max());
      }
    }
    const std::vector<TokenId> tokens(positions.size(), 0);
    const std::int64_t begin_ns = options_.clock.now_ns();
    try {
      if (backend_.decode({tokens, positions, seqs, wants_logits}) != DecodeStatus::kOk) {
        throw ModelLoadError("the batch was rejected");
      }
    } catch (const std::exception& error) {
      throw ModelLoadError("the model cannot decode " + std::to_string(tokens.size()) +
                           " rows: " + error.what());
    }
    return static_cast<double>(std::max<std::int64_t>(options_.clock.now_ns() - begin_ns, 1));
  }

  /// The part of a chunk's time on an empty cache that is attention to its own rows.
  double own_attention_ns(std::int32_t n_rows, double ns) const {
    if (n_rows <= n_decode_max()) return 0;
    const auto& attention = n_rows < kChunkRows ? result_.few : result_.many;
    return std::min(attention.attended_ns * n_rows * n_rows / 2, ns / 2);
  }

  void note(std::int32_t n_rows, double ns) {
    const auto [at, is_new] = best_ns_.emplace(n_rows, ns);
    if (is_new) return;
    // With three runs, two were warm.
    if (n_runs_[n_rows] > 2) ratios_.push_back(std::max(at->second, ns) / std::min(at->second, ns));
    at->second = std::min(at->second, ns);
  }

  /// Whether a call of n rows is expected to end in time, at the lowest known cost per row.
  bool fits(std::int32_t n_rows) const {
    const double elapsed_ns = static_cast<double>(options_.clock.now_ns() - begin_ns_);
    const auto above = best_ns_.upper_bound(n_rows);
    const bool any_known = above != best_ns_.begin();
    const std::int32_t n_known = any_known ? std::prev(above)->first : last_.first;
    const double known_ns = any_known ? std::prev(above)->second : last_.second;
    const double expected_ns = known_ns * std::max(1.0, static_cast<double>(n_rows) / n_known);
    return elapsed_ns + expected_ns <= budget_ns_;
  }

  void forget(std::int32_t n_seqs) {
    for (SeqId seq = 0; seq < n_seqs; ++seq) backend_.remove(seq, 0, kToEnd);
  }

  Backend& backend_;
  const CalibrationOptions& options_;
  const BackendInfo& info_;
  std::int32_t n_chunk_max_;
  std::int64_t begin_ns_;
  double budget_ns_;
  std::pair<std::int32_t, double> last_{1, 0};  // rows and nanoseconds
  std::map<std::int32_t, double> best_ns_;      // by number of rows
  std::map<std::int32_t, int> n_runs_;          // likewise
  std::vector<double> ratios_;  // of repeated measurements of the same number of rows
  Calibration result_;
};

}  // namespace

Calibration calibrate(Backend& backend, const CalibrationOptions& options) {
  return Calibrator(backend, options).run();
}

void warm_up(Backend& backend, const CalibrationOptions& options) {
  Calibrator(backend, options).warm_up();
}

}  // namespace llamaherd

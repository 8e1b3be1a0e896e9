#include <gtest/gtest.h>

#include <string>

#include "common/error.h"
#include "cost/calibration.h"
#include "support.h"

namespace llamaherd {
namespace {

/// A fake whose calls take the time that a curve and attention say, on a clock of its own.
class TimedBackend : public FakeBackend {
 public:
  using FakeBackend::FakeBackend;

  std::function<double(std::int32_t)> rows_ns = [](std::int32_t n) { return 1e6 * n; };
  double attended_ns = 0;
  double load_token_ns = 0;
  double logits_ns = 0;        // more, for each row with logits
  double interruption_ns = 0;  // more, for every third call
  double first_call_ns = 0;    // more, for the first call of each number of rows

  DecodeStatus decode(const BatchView& batch) override {
    const auto n = static_cast<std::int32_t>(batch.tokens.size());
    double ns = rows_ns(n);
    for (std::size_t row = 0; row < batch.seqs.size(); ++row)
      ns += attended_ns * batch.positions[row];
    ns += logits_ns * static_cast<double>(std::ranges::count(batch.wants_logits, 1));
    if (seen_.insert(n).second) ns += first_call_ns;
    if (n_calls() % 3 == 1) ns += interruption_ns;
    clock_.advance(static_cast<std::int64_t>(ns));
    return FakeBackend::decode(batch);
  }
  bool load(SeqId seq, Pos begin, Pos end, std::span<const std::byte> data) override {
    clock_.advance(static_cast<std::int64_t>(load_token_ns * (end - begin)));
    return FakeBackend::load(seq, begin, end, data);
  }

  Calibration calibrate(double budget_s = 1e9) {
    return llamaherd::calibrate(*this, {budget_s, 12, clock_});
  }
  double spent_s() const { return 1e-9 * static_cast<double>(clock_.now_ns() - begin_ns_); }

 private:
  ManualClock clock_;
  std::int64_t begin_ns_ = clock_.now_ns();
  std::set<std::int32_t> seen_;
};

FakeOptions big(std::int32_t n_seqs = 12) {
  FakeOptions options = small_herd().fake;
  options.info.n_seqs = n_seqs;
  options.info.n_ctx = 1024;
  options.info.n_batch = 512;
  return options;
}

TEST(Calibration, MeasuresTheCurveAttentionAndLoading) {
  TimedBackend backend(big());
  backend.rows_ns = [](std::int32_t n) { return n % 4 == 0 ? 1e6 * n : 1.5e6 * n; };
  backend.attended_ns = 1000;
  backend.load_token_ns = 50;
  backend.first_call_ns = 1e9;
  const CostModel model(backend.calibrate());
  for (std::int32_t n : {1, 2, 3, 4, 7, 11, 12, 64, 128, 512}) {
    EXPECT_NEAR(model.call_ns({n}) / backend.rows_ns(n), 1, 0.05) << n;
  }
  EXPECT_NEAR(model.call_ns({6, 6000}) - model.call_ns({6}), 6000 * 1000, 1e5);
  EXPECT_NEAR(model.call_ns({64, 6000}) - model.call_ns({64}), 6000 * 1000, 2e5);
  EXPECT_NEAR(model.costs().load_token_ns, 50, 1);
  EXPECT_EQ(model.calibration().noise, 1);
}

TEST(Calibration, RowsOfGuessesAreMeasuredWithTheirLogits) {
  for (const int max_scored_rows : {0, 6, 100}) {
    FakeOptions options = big(2);
    options.info.max_scored_rows = max_scored_rows;
    TimedBackend backend(options);
    backend.logits_ns = 1e6;
    const CostModel model(backend.calibrate());
    const double known_ns = max_scored_rows == 100 ? 2e6 * 16 : 1e6 * 17;
    EXPECT_NEAR(model.call_ns({16}) / known_ns, 1, max_scored_rows == 100 ? 0.01 : 0.4)
        << max_scored_rows;
    EXPECT_NEAR(model.call_ns({64}), 65e6, 2e6);
  }
}

TEST(Calibration, AttentionIsNotMistakenForInterruptions) {
  TimedBackend backend(big());
  backend.attended_ns = 1000;
  backend.interruption_ns = 20e6;
  const CostModel model(backend.calibrate());
  EXPECT_NEAR(model.call_ns({6, 6000}) - model.call_ns({6}), 6000 * 1000, 3e5);
  EXPECT_LT(model.call_ns({6, 0, 100000}) - model.call_ns({6}), 100000 * 25);
}

TEST(Calibration, ANumberOfRowsThatSeemsDearIsMeasuredAgain) {
  TimedBackend backend(big());
  int n_calls = 0;
  backend.rows_ns = [&](std::int32_t n) {
    const bool interrupted = n == 5 && n_calls++ < 2;
    return 1e6 * (10 + n) * (interrupted ? 3 : 1);
  };
  EXPECT_NEAR(CostModel(backend.calibrate()).call_ns({5}), 15e6, 1e5);
  EXPECT_GT(n_calls, 2);
}

TEST(Calibration, SaysHowNoisyItWas) {
  TimedBackend backend(big());
  std::mt19937 rng(1);
  backend.rows_ns = [&](std::int32_t n) {
    return 1e6 * n * (1 + static_cast<double>(rng() % 1000) / 500);
  };
  EXPECT_GT(backend.calibrate().noise, 1.3);
  TimedBackend hurried(big());
  EXPECT_EQ(hurried.calibrate(-1).noise, 0);
}

TEST(Calibration, LeavesTheCacheEmptyAndBreaksNoRule) {
  for (std::int32_t n_seqs : {1, 2, 6, 64}) {
    for (std::int32_t n_ctx : {5, 70, 300, 2000}) {
      for (bool partial_removal : {false, true}) {
        FakeOptions options = big(n_seqs);
        options.info.n_ctx = n_ctx;
        options.info.partial_removal = partial_removal;
        TimedBackend backend(options);
        EXPECT_FALSE(backend.calibrate().points.empty());
        EXPECT_EQ(backend.n_cells_used(), 0);
        EXPECT_EQ(backend.n_refused(), 0);
        EXPECT_EQ(backend.n_saves(), backend.n_loads());
      }
    }
  }
}

TEST(Calibration, KeepsToItsTime) {
  for (const double row_s : {0.001, 0.01, 0.1, 1.0}) {
    TimedBackend backend(big());
    backend.rows_ns = [row_s](std::int32_t n) { return row_s * 1e9 * n; };
    const Calibration calibration = backend.calibrate(2);
    EXPECT_EQ(calibration.points.front().n_rows, 1);
    EXPECT_LE(backend.spent_s(), std::max(2.0, 12 * row_s) * 1.001);
    EXPECT_GE(backend.spent_s(), std::min(1.0, 6 * row_s));
  }
}

TEST(Calibration, WithoutTimeItAssumes) {
  TimedBackend backend(big());
  const Calibration calibration = backend.calibrate(-1);
  EXPECT_EQ(backend.n_calls(), 0);
  EXPECT_FALSE(calibration.points.empty());
}

TEST(Calibration, AFailedCallIsALoadErrorThatSaysWhy) {
  for (Fault::Kind kind : {Fault::Kind::kStatus, Fault::Kind::kThrow}) {
    FakeOptions options = big();
    options.faults[1] = {kind, DecodeStatus::kFailed, 1};
    TimedBackend backend(options);
    try {
      backend.calibrate();
      FAIL();
    } catch (const ModelLoadError& error) {
      const std::string why = kind == Fault::Kind::kThrow ? "scripted" : "the batch was rejected";
      EXPECT_EQ(error.what(), "the model cannot decode 2 rows: " + why);
    }
  }
}

}  // namespace
}  // namespace llamaherd

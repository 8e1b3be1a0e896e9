#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "sampling/sampler.h"
#include "support.h"

namespace llamaherd {
namespace {

/// Probabilities by token of what is kept, as written in the papers, in double precision; nothing
/// if a choice hangs on rounding.
class Reference {
 public:
  static std::optional<std::map<TokenId, double>> keep(const std::vector<float>& row,
                                                       const SamplingParams& params) {
    Reference r(row);
    if (params.top_k > 0) r.top_k(params.top_k);
    if (params.typical_p < 1) r.typical(params.typical_p);
    if (params.top_p < 1) r.nucleus(params.top_p);
    if (params.min_p > 0) r.min_p(params.min_p);
    if (r.doubtful_) return std::nullopt;
    return r.probabilities(params.temperature);
  }

 private:
  static constexpr double kDoubt = 1e-5;

  explicit Reference(const std::vector<float>& row) : row_(row), kept_(row.size()) {
    std::iota(kept_.begin(), kept_.end(), 0);
    sort_by([&](TokenId t) { return -double{row_[t]}; });
  }

  template <typename Key>
  void sort_by(Key key) {
    std::sort(kept_.begin(), kept_.end(),
              [&](TokenId a, TokenId b) { return key(a) != key(b) ? key(a) < key(b) : a < b; });
  }

  std::map<TokenId, double> probabilities(double temperature) const {
    double max = -1e300, total = 0;
    for (TokenId t : kept_) max = std::max(max, double{row_[t]});
    std::map<TokenId, double> p;
    for (TokenId t : kept_) total += p[t] = std::exp((row_[t] - max) / temperature);
    for (auto& [token, share] : p) share /= total;
    return p;
  }

  void keep_share(double share) {
    const auto p = probabilities(1);
    double mass = 0;
    std::size_t n = 0;
    while (n < kept_.size() && mass < share) {
      mass += p.at(kept_[n++]);
      doubtful_ |= std::abs(mass - share) < kDoubt;
    }
    kept_.resize(n);
  }

  void top_k(std::size_t k) { kept_.resize(std::min(k, kept_.size())); }

  void nucleus(double top_p) {
    sort_by([&](TokenId t) { return -double{row_[t]}; });
    keep_share(top_p);
  }

  void typical(double typical_p) {
    const auto p = probabilities(1);
    double entropy = 0;
    for (const auto& [token, share] : p) entropy -= share * std::log(share);
    std::map<TokenId, double> distance;
    for (const auto& [token, share] : p) distance[token] = std::abs(-std::log(share) - entropy);
    sort_by([&](TokenId t) { return distance[t]; });
    for (std::size_t i = 1; i < kept_.size(); ++i) {
      const bool tied = row_[kept_[i]] == row_[kept_[i - 1]];
      doubtful_ |= !tied && distance[kept_[i]] - distance[kept_[i - 1]] < kDoubt;
    }
    keep_share(typical_p);
  }

  void min_p(double min_p) {
    const auto p = probabilities(1);
    double best = 0;
    for (const auto& [token, share] : p) best = std::max(best, share);
    std::erase_if(kept_, [&](TokenId t) {
      doubtful_ |= std::abs(p.at(t) / best - min_p) < kDoubt;
      return p.at(t) < min_p * best;
    });
  }

  const std::vector<float>& row_;
  std::vector<TokenId> kept_;
  bool doubtful_ = false;
};

std::map<TokenId, int> draw_often(const SamplingParams& params, const std::vector<float>& row,
                                  std::uint64_t seed, int n) {
  Sampler sampler(params, seed, make_table(), {}, n);
  RowScratch scratch;
  std::map<TokenId, int> counts;
  for (int i = 0; i < n; ++i) {
    std::vector<float> copy = row;
    const TokenId token = *sampler.sample(copy, scratch);
    sampler.accept(token);
    ++counts[token];
  }
  return counts;
}

TEST(SamplerDistribution, KeepsWhatTheReferenceKeeps) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal(0, 2);
  int n_compared = 0;
  for (int round = 0; round < 400; ++round) {
    std::vector<float> row(2 + rng() % 200);
    const bool ties = rng() % 3 == 0;
    for (float& x : row) x = ties ? std::round(normal(rng) * 2) / 2 : normal(rng);
    SamplingParams params;
    params.temperature = rng() % 2 ? 1.0f : 0.5f + static_cast<float>(rng() % 20) / 10;
    if (rng() % 2) params.top_k = 1 + static_cast<std::int32_t>(rng() % 30);
    if (rng() % 3 == 0) params.typical_p = 0.05f + static_cast<float>(rng() % 90) / 100;
    if (rng() % 2) params.top_p = 0.05f + static_cast<float>(rng() % 90) / 100;
    if (rng() % 3 == 0) params.min_p = static_cast<float>(1 + rng() % 90) / 100;
    const auto expected = Reference::keep(row, params);
    if (!expected) continue;
    ++n_compared;
    constexpr int kDraws = 600;
    const auto counts = draw_often(params, row, rng(), kDraws);
    for (const auto& [token, n] : counts) {
      ASSERT_TRUE(expected->count(token)) << "round " << round << " drew " << token;
    }
    for (const auto& [token, share] : *expected) {
      // Six standard deviations: 1 in 10^9, and the seeds are fixed.
      const double mean = kDraws * share;
      const auto it = counts.find(token);
      ASSERT_NEAR(it == counts.end() ? 0 : it->second, mean, 6 * std::sqrt(mean) + 4)
          << "round " << round << " token " << token;
    }
  }
  EXPECT_GT(n_compared, 300);
}

double chi_square(const SamplingParams& params, const std::vector<float>& row) {
  constexpr int kDraws = 40000;
  const auto counts = draw_often(params, row, 99, kDraws);
  const auto expected = Reference::keep(row, params);
  if (!expected) return std::numeric_limits<double>::infinity();
  double sum = 0;
  for (const auto& [token, share] : *expected) {
    const auto it = counts.find(token);
    const double n = it == counts.end() ? 0 : it->second;
    sum += (n - kDraws * share) * (n - kDraws * share) / (kDraws * share);
  }
  return sum;
}

TEST(SamplerDistribution, DrawsInProportionOnEveryPath) {
  std::vector<float> row(100);
  for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>((i * 37) % 20) / 10;
  constexpr double kCritical = 160;  // 99 degrees of freedom: 1 in 10^4
  SamplingParams all;
  EXPECT_LT(chi_square(all, row), kCritical);
  all.temperature = 0.7f;
  EXPECT_LT(chi_square(all, row), kCritical);
  all.temperature = 3;
  EXPECT_LT(chi_square(all, row), kCritical);
  SamplingParams top_k;
  top_k.top_k = 50;
  EXPECT_LT(chi_square(top_k, row), kCritical);
  SamplingParams top_p;
  top_p.top_p = 0.9f;
  EXPECT_LT(chi_square(top_p, row), kCritical);
  SamplingParams min_p;
  min_p.min_p = 0.2f;
  min_p.temperature = 1.5f;
  EXPECT_LT(chi_square(min_p, row), kCritical);
  SamplingParams typical;
  typical.typical_p = 0.7f;
  EXPECT_LT(chi_square(typical, row), kCritical);
}

TEST(SamplerDistribution, NeighbouringDrawsAreIndependent) {
  const std::vector<float> row(4, 0.0f);
  Sampler sampler(SamplingParams{}, 3, make_table(), {}, 0);
  RowScratch scratch;
  std::map<std::pair<TokenId, TokenId>, int> pairs;
  TokenId last = 0;
  constexpr int kDraws = 16000;
  for (int i = 0; i < kDraws; ++i) {
    std::vector<float> copy = row;
    const TokenId token = *sampler.sample(copy, scratch);
    sampler.accept(token);
    ++pairs[{last, token}];
    last = token;
  }
  ASSERT_EQ(pairs.size(), 16u);
  for (const auto& [pair, n] : pairs) EXPECT_NEAR(n, kDraws / 16, 5 * std::sqrt(kDraws / 16));
}

TEST(SamplerDistribution, NeighbouringSeedsAreIndependent) {
  const std::vector<float> row(4, 0.0f);
  std::map<std::pair<TokenId, TokenId>, int> pairs;
  constexpr int kSeeds = 16000;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    std::vector<TokenId> tokens;
    for (std::uint64_t s : {seed, seed + 1}) {
      RowScratch scratch;
      std::vector<float> copy = row;
      tokens.push_back(*Sampler(SamplingParams{}, s, make_table(), {}, 0).sample(copy, scratch));
    }
    ++pairs[{tokens[0], tokens[1]}];
  }
  ASSERT_EQ(pairs.size(), 16u);
  for (const auto& [pair, n] : pairs) EXPECT_NEAR(n, kSeeds / 16, 5 * std::sqrt(kSeeds / 16));
}

}  // namespace
}  // namespace llamaherd

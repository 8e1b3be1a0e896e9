#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "sampling/infill.h"
#include "sampling/logits_math.h"

namespace llamaherd {
namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();
// keep_sure() compares all pairs.
constexpr std::size_t kMaxInfillCandidates = 128;

/// Uniform in [0, 1). Counter-based: 53 bits of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) of
/// seed and index.
double uniform_at(std::uint64_t seed, std::uint64_t index) {
  auto mix = [](std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  };
  const std::uint64_t bits = mix(mix(seed) + (index + 1) * 0x9E3779B97F4A7C15u);
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

/// Collects a superset of the top_p nucleus: lowers a threshold until the mass reaches it. Returns
/// the mass of all tokens.
double collect_mass(std::span<const float> logits, float max, float top_p, RowScratch& s) {
  const double total = exp_sums(logits, max, 1.0f, s.block_sums);
  for (float depth = 4.0f;; depth *= 2.0f) {
    collect(logits, max - depth, s);
    double mass = 0;
    for (const TokenLogit& c : s.candidates) mass += exp_weight(c.logit, max, 1.0f);
    if (mass >= top_p * total || depth > 64.0f) return total;  // beyond 64 weights are negligible
  }
}

double weigh(std::vector<TokenLogit>& candidates, float max) {
  double total = 0;
  for (TokenLogit& c : candidates) total += c.weight = exp_weight(c.logit, max, 1.0f);
  return total;
}

/// Keeps the first candidates whose weights reach `share` of `total`; at least one.
void keep_mass(std::vector<TokenLogit>& candidates, double share, double total) {
  double mass = 0;
  std::size_t n = 0;
  while (n < candidates.size() && (n == 0 || mass < share * total)) mass += candidates[n++].weight;
  candidates.resize(n);
}

/// Locally typical sampling (Meister et al., TACL 2023): keeps the tokens whose information content
/// is closest to the distribution's entropy.
void keep_typical(std::vector<TokenLogit>& candidates, float max, float typical_p) {
  const double total = weigh(candidates, max);
  auto surprise = [&](const TokenLogit& c) { return std::log(total) - (c.logit - max); };
  double entropy = 0;
  for (const TokenLogit& c : candidates) {
    if (c.weight > 0) entropy += c.weight / total * surprise(c);
  }
  auto distance = [&](const TokenLogit& c) { return std::abs(surprise(c) - entropy); };
  std::sort(candidates.begin(), candidates.end(), [&](const TokenLogit& a, const TokenLogit& b) {
    const double da = distance(a), db = distance(b);
    return da != db ? da < db : a.token < b.token;
  });
  keep_mass(candidates, typical_p, total);
}

/// 1 / temperature, kept finite: 0 * inf would make the best token's weight NaN.
float inverse(float temperature) {
  return std::min(1.0f / temperature, std::numeric_limits<float>::max());
}

/// Number of tokens that top_k keeps; 0: all.
std::size_t most_candidates(const SamplingParams& params) {
  const auto top_k = static_cast<std::size_t>(params.top_k);
  if (!params.infill) return top_k;
  return top_k == 0 ? kMaxInfillCandidates : std::min(top_k, kMaxInfillCandidates);
}

TokenId draw(const std::vector<TokenLogit>& candidates, float max, float temperature,
             double uniform) {
  const float scale = inverse(temperature);
  double total = 0;
  for (const TokenLogit& c : candidates) total += exp_weight(c.logit, max, scale);
  double left = uniform * total;
  for (const TokenLogit& c : candidates) {
    left -= exp_weight(c.logit, max, scale);
    if (left < 0) return c.token;
  }
  return candidates.front().token;  // rounding left a remainder
}

}  // namespace

Sampler::Sampler(SharedValue<SamplingParams> params, std::uint64_t seed, const Vocabulary& table,
                 std::span<const TokenId> prompt, std::int32_t n_max)
    : params_(std::move(params)),
      seed_(seed),
      table_(&table),
      has_penalties_(params_->repetition_penalty != 1.0f || params_->frequency_penalty != 0.0f ||
                     params_->presence_penalty != 0.0f) {
  const auto ending = table.end_of_generation();
  if (params_->ignore_eos) banned_always_.assign(ending.begin(), ending.end());
  if (params_->min_tokens > 0) {
    banned_early_ = params_->stop_token_ids;
    if (!params_->ignore_eos) {
      banned_early_.insert(banned_early_.end(), ending.begin(), ending.end());
    }
  }
  if (!has_penalties_) return;
  std::vector<TokenId> distinct(prompt.begin(), prompt.end());
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  seen_.reserve(distinct.size() + n_max);
  for (TokenId token : distinct) seen_.push_back({token, 0});
}

bool Sampler::edits() const {
  return !seen_.empty() || !params_->logit_bias.empty() || !banned_always_.empty() ||
         n_accepted_ < params_->min_tokens;
}

void Sampler::edit(std::span<float> logits, std::int32_t n_ahead) const {
  for (const Seen& seen : seen_) {
    float& logit = logits[seen.token];
    const float r = params_->repetition_penalty;
    logit = logit > 0 ? logit / r : logit * r;
    if (seen.n_output > 0) {
      logit -= params_->frequency_penalty * static_cast<float>(seen.n_output) +
               params_->presence_penalty;
    }
  }
  for (const auto& [token, bias] : params_->logit_bias) logits[token] += bias;
  for (TokenId token : banned_always_) logits[token] = kNegInf;
  if (n_accepted_ + n_ahead < params_->min_tokens) {
    for (TokenId token : banned_early_) logits[token] = kNegInf;
  }
}

std::optional<TokenId> Sampler::sample(std::span<float> logits, RowScratch& s,
                                       std::int32_t n_ahead) const {
  edit(logits, n_ahead);
  return choose(logits, s, n_ahead);
}

std::optional<TokenId> Sampler::choose(std::span<const float> logits, RowScratch& s,
                                       std::int32_t n_ahead) const {
  const RowScan scan = scan_row(logits, s.block_max);
  if (!scan.finite) return std::nullopt;
  if (params_->temperature == 0.0f || params_->top_k == 1) return scan.argmax;

  const double uniform = uniform_at(seed_, n_accepted_ + n_ahead);
  const std::size_t top_k = most_candidates(*params_);
  const bool has_top_k = top_k > 0 && top_k < logits.size();
  double total = 0;  // 0: the total is the mass of the candidates
  if (has_top_k) {
    collect_top_k(logits, top_k, s);
  } else if (params_->typical_p < 1.0f || params_->infill) {
    collect(logits, std::numeric_limits<float>::lowest(), s);
  } else if (params_->top_p < 1.0f) {
    total = collect_mass(logits, scan.max, params_->top_p, s);
  } else if (params_->min_p > 0.0f) {
    collect(logits, scan.max + std::log(params_->min_p), s);
  } else {
    return draw_from_all(logits, scan.max, uniform, s);
  }

  if (params_->typical_p < 1.0f) keep_typical(s.candidates, scan.max, params_->typical_p);
  std::sort(s.candidates.begin(), s.candidates.end(), better);
  if (params_->top_p < 1.0f) {
    const double own = weigh(s.candidates, scan.max);
    keep_mass(s.candidates, params_->top_p, total > 0 ? total : own);
  }
  if (params_->min_p > 0.0f) {
    const float threshold = s.candidates.front().logit + std::log(params_->min_p);
    while (s.candidates.back().logit < threshold) s.candidates.pop_back();
  }
  if (params_->infill) return draw_sure(logits, uniform, s);
  return draw(s.candidates, s.candidates.front().logit, params_->temperature, uniform);
}

/// Draws from the candidates that keep_sure() leaves; if it leaves none, returns the likeliest
/// token that ends the text.
TokenId Sampler::draw_sure(std::span<const float> logits, double uniform, RowScratch& s) const {
  const float scale = inverse(params_->temperature);
  const TokenLogit best = s.candidates.front();
  for (TokenLogit& c : s.candidates) c.weight = exp_weight(c.logit, best.logit, scale);
  keep_sure(s.candidates, *table_);
  if (s.candidates.empty()) {
    TokenLogit end{best.token, kNegInf, 0};
    for (const TokenId token : table_->end_of_generation()) {
      if (logits[token] > end.logit) end = {token, logits[token], 0};
    }
    return end.token;  // the best token if all that end the text are forbidden
  }
  double left = 0;
  for (const TokenLogit& c : s.candidates) left += c.weight;
  left *= uniform;
  for (const TokenLogit& c : s.candidates) {
    left -= c.weight;
    if (left < 0) return c.token;
  }
  return s.candidates.front().token;  // rounding left a remainder
}

TokenId Sampler::draw_from_all(std::span<const float> logits, float max, double uniform,
                               RowScratch& s) const {
  const float scale = inverse(params_->temperature);
  double left = uniform * exp_sums(logits, max, scale, s.block_sums);
  std::size_t block = 0;
  while (block + 1 < s.block_sums.size() && left >= s.block_sums[block]) {
    left -= s.block_sums[block++];
  }
  // If rounding leaves a remainder, the last token with a nonzero weight is chosen.
  const std::size_t end = std::min(logits.size(), (block + 1) * kLogitsBlock);
  TokenId token = static_cast<TokenId>(block * kLogitsBlock);
  for (std::size_t i = block * kLogitsBlock; i < end && left >= 0; ++i) {
    const float weight = exp_weight(logits[i], max, scale);
    if (weight > 0) token = static_cast<TokenId>(i);
    left -= weight;
  }
  return token;
}

void Sampler::accept(TokenId token) noexcept {
  ++n_accepted_;
  if (!has_penalties_) return;
  auto seen =
      std::find_if(seen_.begin(), seen_.end(), [token](const Seen& s) { return s.token == token; });
  if (seen == seen_.end()) {
    seen_.push_back({token, 1});  // capacity was reserved
  } else {
    ++seen->n_output;
  }
}

}  // namespace llamaherd

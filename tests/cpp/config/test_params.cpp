#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "common/error.h"
#include "config/params.h"

namespace llamaherd {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <typename T>
struct Bad {
  std::function<void(T&)> spoil;
  std::string message;
};

template <typename Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const InvalidRequestError& error) {
    return error.what();
  }
  return "no error";
}

using P = SamplingParams;
using C = EngineConfig;

const auto kMostThreads = static_cast<std::int32_t>(4 * std::thread::hardware_concurrency());

TEST(SamplingParamsRules, DefaultsAndLimitsAreValid) {
  EXPECT_NO_THROW(validate(P{}));
  P p;
  p.max_tokens = p.min_tokens = 1;
  p.temperature = 100;
  p.top_p = p.min_p = p.typical_p = 1;
  p.repetition_penalty = 100;
  p.frequency_penalty = p.presence_penalty = 2;
  p.logit_bias = {{1, -kInf}, {2, 50.0f}};
  p.stop = std::vector(kMaxStopStrings, std::string(kMaxStopBytes, 'x'));
  EXPECT_NO_THROW(validate(p));
  p.frequency_penalty = p.presence_penalty = -2;
  p.temperature = p.min_p = 0;
  EXPECT_NO_THROW(validate(p));
}

TEST(SamplingParamsRules, MessagesStateRuleAndValue) {
  const std::vector<Bad<P>> rows = {
      {[](P& p) { p.max_tokens = 0; }, "max_tokens must be >= 1; got 0"},
      {[](P& p) { p.min_tokens = -1; }, "min_tokens must be >= 0; got -1"},
      {[](P& p) { p.max_tokens = 3, p.min_tokens = 4; },
       "min_tokens must be <= max_tokens; got min_tokens 4 and max_tokens 3"},
      {[](P& p) { p.temperature = -0.5f; }, "temperature must be in [0, 100]; got -0.5"},
      {[](P& p) { p.temperature = 101; }, "temperature must be in [0, 100]; got 101"},
      {[](P& p) { p.temperature = kNan; }, "temperature must be in [0, 100]; got nan"},
      {[](P& p) { p.top_k = -1; }, "top_k must be >= 0; got -1"},
      {[](P& p) { p.top_p = 0; }, "top_p must be in (0, 1]; got 0"},
      {[](P& p) { p.top_p = 1.5f; }, "top_p must be in (0, 1]; got 1.5"},
      {[](P& p) { p.top_p = kNan; }, "top_p must be in (0, 1]; got nan"},
      {[](P& p) { p.min_p = -1; }, "min_p must be in [0, 1]; got -1"},
      {[](P& p) { p.min_p = 2; }, "min_p must be in [0, 1]; got 2"},
      {[](P& p) { p.min_p = kNan; }, "min_p must be in [0, 1]; got nan"},
      {[](P& p) { p.typical_p = 0; }, "typical_p must be in (0, 1]; got 0"},
      {[](P& p) { p.typical_p = 1.25f; }, "typical_p must be in (0, 1]; got 1.25"},
      {[](P& p) { p.typical_p = kNan; }, "typical_p must be in (0, 1]; got nan"},
      {[](P& p) { p.repetition_penalty = 0; }, "repetition_penalty must be in [0.01, 100]; got 0"},
      {[](P& p) { p.repetition_penalty = kInf; },
       "repetition_penalty must be in [0.01, 100]; got inf"},
      {[](P& p) { p.repetition_penalty = kNan; },
       "repetition_penalty must be in [0.01, 100]; got nan"},
      {[](P& p) { p.frequency_penalty = 2.5f; }, "frequency_penalty must be in [-2, 2]; got 2.5"},
      {[](P& p) { p.frequency_penalty = kNan; }, "frequency_penalty must be in [-2, 2]; got nan"},
      {[](P& p) { p.presence_penalty = -3; }, "presence_penalty must be in [-2, 2]; got -3"},
      {[](P& p) { p.presence_penalty = kNan; }, "presence_penalty must be in [-2, 2]; got nan"},
      {[](P& p) {
         p.logit_bias = {{7, kNan}};
       },
       "logit_bias must be in [-1000, 1000] or -inf for token 7; got nan"},
      {[](P& p) {
         p.logit_bias = {{1, 0.0f}, {7, kInf}};
       },
       "logit_bias must be in [-1000, 1000] or -inf for token 7; got inf"},
      {[](P& p) { p.stop = std::vector<std::string>(129, "x"); },
       "stop must have at most 128 strings; got 129"},
      {[](P& p) {
         p.stop = {"x", ""};
       },
       "stop must be a list of non-empty strings; got ''"},
      {[](P& p) { p.stop = StopStrings{std::string(1025, 'x')}; },
       "a stop string must have at most 1024 bytes; got 1025"},
  };
  for (const auto& row : rows) {
    P p;
    row.spoil(p);
    EXPECT_EQ(message_of([&] { validate(p); }), row.message);
  }
}

TEST(EngineConfigRules, DefaultsAndLimitsAreValid) {
  EXPECT_NO_THROW(validate(C{}));
  C c;
  c.preset = "high_throughput";
  c.n_ctx = 1;
  c.max_len = 2;
  c.max_seqs = 64;
  c.token_budget = 64;
  c.n_threads = kMostThreads;
  c.poll = 0;
  c.split_mode = "row";
  c.tensor_split = {0, 1.5f};
  c.kv_type = "f32";
  c.deterministic = true;
  EXPECT_NO_THROW(validate(c));
  c.deterministic = false;
  c.n_ubatch = 64;
  EXPECT_NO_THROW(validate(c));
  c.max_seqs = 16;
  c.n_ubatch = 16;
  EXPECT_NO_THROW(validate(c));
  c.token_budget = c.n_ubatch = 4096;
  EXPECT_NO_THROW(validate(c));
  for (const char* type : {"f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"}) {
    c.kv_type = type;
    EXPECT_NO_THROW(validate(c)) << type;
  }
}

TEST(EngineConfigRules, MessagesStateRuleAndValue) {
  const std::string threads_rule =
      "n_threads must be in [1, " + std::to_string(kMostThreads) + "], 4 per CPU; got ";
  const std::vector<Bad<C>> rows = {
      {[](C& c) { c.preset = "fast"; },
       "preset must be one of low_latency, balanced, high_throughput; got 'fast'"},
      {[](C& c) { c.n_ctx = 0; }, "n_ctx must be >= 1; got 0"},
      {[](C& c) { c.max_len = 1; }, "max_len must be >= 2; got 1"},
      {[](C& c) { c.max_seqs = 0; }, "max_seqs must be in [1, 64]; got 0"},
      {[](C& c) { c.max_seqs = 65; }, "max_seqs must be in [1, 64]; got 65"},
      {[](C& c) { c.token_budget = 63; }, "token_budget must be in [64, 65536]; got 63"},
      {[](C& c) { c.token_budget = 65537; }, "token_budget must be in [64, 65536]; got 65537"},
      {[](C& c) { c.n_ubatch = 15; }, "n_ubatch must be in [16, 4096]; got 15"},
      {[](C& c) { c.token_budget = 8192, c.n_ubatch = 4097; },
       "n_ubatch must be in [16, 4096]; got 4097"},
      {[](C& c) { c.max_seqs = 33, c.n_ubatch = 32; },
       "n_ubatch must be >= max_seqs (33), one row per sequence; got 32"},
      {[](C& c) { c.preset = "low_latency", c.n_ubatch = 513; },
       "n_ubatch must be <= token_budget (512); got 513"},
      {[](C& c) { c.n_threads = 0; }, threads_rule + "0"},
      {[](C& c) { c.n_threads = kMostThreads + 1; },
       threads_rule + std::to_string(kMostThreads + 1)},
      {[](C& c) { c.poll = -1; }, "poll must be in [0, 100]; got -1"},
      {[](C& c) { c.poll = 101; }, "poll must be in [0, 100]; got 101"},
      {[](C& c) { c.n_gpu_layers = -2; }, "n_gpu_layers must be >= -1; got -2"},
      {[](C& c) { c.split_mode = "all"; }, "split_mode must be one of none, layer, row; got 'all'"},
      {[](C& c) { c.main_gpu = -1; }, "main_gpu must be >= 0; got -1"},
      {[](C& c) {
         c.tensor_split = {1, -1};
       },
       "tensor_split must be finite and >= 0; got -1"},
      {[](C& c) { c.tensor_split = {kInf}; }, "tensor_split must be finite and >= 0; got inf"},
      {[](C& c) { c.tensor_split = {kNan}; }, "tensor_split must be finite and >= 0; got nan"},
      {[](C& c) { c.kv_type = "q3"; },
       "kv_type must be one of f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl; got 'q3'"},
      {[](C& c) { c.deterministic = true, c.kv_type = "q8_0"; },
       "kv_type must be f16 or f32 with deterministic=True; got q8_0"},
  };
  for (const auto& row : rows) {
    C c;
    row.spoil(c);
    EXPECT_EQ(message_of([&] { validate(c); }), row.message);
  }
}

TEST(ResolvePreset, ExplicitOptionsGoOverThePresets) {
  C c;
  EXPECT_EQ(resolve_preset(c).max_seqs, 8);
  EXPECT_EQ(resolve_preset(c).token_budget, 1024);
  c.preset = "low_latency";
  c.token_budget = 700;
  EXPECT_EQ(resolve_preset(c).max_seqs, 4);
  EXPECT_EQ(resolve_preset(c).token_budget, 700);
  c.preset = "high_throughput";
  c.max_seqs = 3;
  EXPECT_EQ(resolve_preset(c).max_seqs, 3);
  c.preset = "unheard of";
  EXPECT_THROW(resolve_preset(c), std::logic_error);
}

TEST(RequestRules, MessagesStateRuleAndValue) {
  const Limits limits{100, 10};
  const auto message = [&](const std::vector<TokenId>& prompt, const P& params) {
    return message_of([&] { validate(prompt, params, limits); });
  };
  EXPECT_EQ(message({0, 99}, {}), "no error");
  EXPECT_EQ(message(std::vector<TokenId>(9, 1), {}), "no error");
  EXPECT_EQ(message({}, {}), "prompt must have at least 1 token; got 0");
  EXPECT_EQ(message({1, 100}, {}), "prompt token ids must be in [0, 100); got 100 at index 1");
  EXPECT_EQ(message({-1}, {}), "prompt token ids must be in [0, 100); got -1 at index 0");
  EXPECT_EQ(message(std::vector<TokenId>(10, 1), {}),
            "this model's maximum context length is 10 tokens (max_len), output included; the "
            "prompt has 10: shorten it");
  P p;
  p.logit_bias = {{100, 1.0f}};
  EXPECT_EQ(message({1}, p), "a token id in logit_bias must be in [0, 100); got 100");
  p.logit_bias = {{-1, 1.0f}};
  EXPECT_EQ(message({1}, p), "a token id in logit_bias must be in [0, 100); got -1");
  p.logit_bias.clear();
  p.stop_token_ids = {5, 100};
  EXPECT_EQ(message({1}, p), "a token id in stop_token_ids must be in [0, 100); got 100");
  p.stop_token_ids = {-2};
  EXPECT_EQ(message({1}, p), "a token id in stop_token_ids must be in [0, 100); got -2");
}

}  // namespace
}  // namespace llamaherd

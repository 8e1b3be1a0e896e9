#include "llama/model/model_check.h"

#include "llama-model.h"
#include "llama/model/load_rule.h"

namespace llamaherd {
namespace {

// Limit of a layer's state, in values per sequence or token.
constexpr std::uint64_t kMaxState = std::uint64_t{1} << 30;

std::string str(std::uint64_t value) { return std::to_string(value); }

struct Check {
  const llama_hparams& h;

  void attention(std::uint32_t il) const {
    const std::uint32_t n_head = h.n_head(il), n_head_kv = h.n_head_kv(il);
    const std::string layer = " in layer " + str(il);
    if (n_head == 0 || n_head_kv == 0) return;  // no attention
    require_rule(n_head % n_head_kv == 0,
                 "the number of heads must be a multiple of that of KV heads; they are " +
                     str(n_head) + " and " + str(n_head_kv) + layer);
    require_rule(h.n_embd_head_k(il) > 0 && h.n_embd_head_v(il) > 0,
                 "the head size must be at least 1" + layer);
    const std::uint64_t n_k = std::uint64_t{n_head} * h.n_embd_head_k(il);
    const std::uint64_t n_v = std::uint64_t{n_head} * h.n_embd_head_v(il);
    require_rule(n_k <= kMaxState && n_v <= kMaxState, "heads are too large" + layer);
    if (h.rope_type == LLAMA_ROPE_TYPE_NONE || !h.has_rope(il)) return;
    const std::uint32_t n_rot = h.n_rot(il);
    require_rule(n_rot % 2 == 0 && n_rot <= h.n_embd_head_k(il),
                 "the rotated dimensions of a head must be even and at most its size " +
                     str(h.n_embd_head_k(il)) + "; they are " + str(n_rot) + layer);
  }

  void sections() const {
    if (h.rope_type != LLAMA_ROPE_TYPE_MROPE && h.rope_type != LLAMA_ROPE_TYPE_IMROPE) return;
    const auto& of = h.rope_sections;
    require_rule(of[0] > 0 || of[1] > 0 || of[2] > 0,
                 "rope.dimension_sections must have a positive value");
  }

  void window() const {
    if (h.swa_type == LLAMA_SWA_TYPE_NONE) return;
    require_rule(h.n_swa > 0 && h.n_swa <= INT32_MAX,
                 "attention.sliding_window must be at least 1");
  }

  void state() const {
    const std::uint64_t conv = std::uint64_t{h.ssm_d_conv} *
                               (h.ssm_d_inner + std::uint64_t{2} * h.ssm_n_group * h.ssm_d_state);
    const std::uint64_t scan = std::uint64_t{h.ssm_d_state} * h.ssm_d_inner;
    require_rule(conv <= kMaxState && scan <= kMaxState, "the recurrent state is too large");
  }
};

}  // namespace

void check_model(const llama_model& model) {
  const llama_hparams& h = model.hparams;
  const Check check{h};
  require_rule(
      h.pooling_type >= LLAMA_POOLING_TYPE_UNSPECIFIED && h.pooling_type <= LLAMA_POOLING_TYPE_RANK,
      "unknown pooling type " + std::to_string(h.pooling_type));
  for (std::uint32_t il = 0; il < h.n_layer_all; ++il) check.attention(il);
  check.sections();
  check.window();
  check.state();
}

std::int32_t n_positions(const llama_model& model) {
  return model.pos_embd ? static_cast<std::int32_t>(model.pos_embd->ne[1]) : 0;
}

}  // namespace llamaherd

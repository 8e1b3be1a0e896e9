#pragma once

#include <memory>
#include <string>
#include <vector>

#include "constraint.h"
#include "llama_model.h"

namespace llamaherd {

/// A constraint of what is written outside a reasoning model's thoughts. Within them everything
/// goes: a thought about a tool is no call of it.
class OutsideThought final : public Constraint {
 public:
  /// `begin` opens a thought, any of `ends` closes it; `before` is what the prompt holds of the
  /// answer. `model` must outlive it and what fresh() makes of it.
  OutsideThought(const LlamaModel& model, std::shared_ptr<Constraint> inner, std::string begin,
                 std::vector<std::string> ends, const std::string& before);

  std::shared_ptr<Constraint> fresh() const override;
  std::string error() const override { return inner_->error(); }
  bool draws_first() const override { return inner_->draws_first(); }
  bool allows(TokenId token) override { return thinking_ || inner_->allows(token); }
  void restrict(std::span<float> logits) override {
    if (!thinking_) inner_->restrict(logits);
  }
  void accept(TokenId token) noexcept override;

 private:
  void read(const std::string& text);

  const LlamaModel& model_;
  std::shared_ptr<Constraint> inner_;
  std::string begin_;
  std::vector<std::string> ends_;
  bool thinking_ = false;
  std::string tail_;  // of what was written, as long as the longest tag
};

}  // namespace llamaherd

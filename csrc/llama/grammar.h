#pragma once

#include <memory>
#include <string>
#include <vector>

#include "constraint.h"
#include "llama_model.h"

struct llama_grammar;

namespace llamaherd {

/// What a grammar is obeyed from: a token, or text that matches a pattern of std::regex, from the
/// pattern's first group on if it has one.
struct GrammarTriggers {
  std::vector<TokenId> tokens;
  std::vector<std::string> patterns;
};

/// A grammar in llama.cpp's GBNF, run by llama.cpp's own matcher, whose look at a whole vocabulary
/// takes milliseconds.
class Grammar final : public Constraint {
 public:
  /// Throws InvalidRequestError with the place if `text` is no grammar. `model` need not outlive
  /// it, but nothing is judged without.
  Grammar(const LlamaModel& model, const std::string& text) : Grammar(model, text, nullptr) {}

  /// Obeyed from what triggers it on; until then everything goes.
  Grammar(const LlamaModel& model, const std::string& text, const GrammarTriggers& triggers)
      : Grammar(model, text, &triggers) {}
  ~Grammar() override;

  std::shared_ptr<Constraint> fresh() const override;
  std::string error() const override { return error_; }
  bool draws_first() const override { return true; }
  bool allows(TokenId token) override;
  void restrict(std::span<float> logits) override;
  void accept(TokenId token) noexcept override;

 private:
  struct Free {
    void operator()(llama_grammar* grammar) const;
  };

  Grammar(const LlamaModel& model, const std::string& text, const GrammarTriggers* triggers);
  explicit Grammar(llama_grammar* grammar) : grammar_(grammar) {}

  std::unique_ptr<llama_grammar, Free> grammar_;
  std::string error_;
};

}  // namespace llamaherd

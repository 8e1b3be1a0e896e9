#include "outside_thought.h"

#include <algorithm>

namespace llamaherd {

OutsideThought::OutsideThought(const LlamaModel& model, std::shared_ptr<Constraint> inner,
                               std::string begin, std::vector<std::string> ends,
                               const std::string& before)
    : model_(model), inner_(std::move(inner)), begin_(std::move(begin)), ends_(std::move(ends)) {
  read(before);
}

std::shared_ptr<Constraint> OutsideThought::fresh() const {
  auto copy = std::make_shared<OutsideThought>(*this);
  copy->inner_ = inner_->fresh();
  return copy;
}

void OutsideThought::accept(TokenId token) noexcept {
  const bool was_thinking = thinking_;
  read(model_.piece(token, true));
  // The token that ends a thought is still of it.
  if (!was_thinking && !thinking_) inner_->accept(token);
}

void OutsideThought::read(const std::string& text) {
  std::size_t longest = begin_.size();
  for (const std::string& end : ends_) longest = std::max(longest, end.size());
  for (char c : text) {
    tail_ += c;
    if (tail_.size() > longest) tail_.erase(0, 1);
    if (!thinking_) {
      thinking_ = tail_.ends_with(begin_);
    } else {
      thinking_ =
          std::ranges::none_of(ends_, [&](const auto& end) { return tail_.ends_with(end); });
    }
  }
}

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <vector>

#include "types.h"

namespace llamaherd {

/// The sequence ids a batch may name: who of them is in use.
class SeqPool {
 public:
  explicit SeqPool(std::int32_t n_seqs) : in_use_(n_seqs) {}

  /// The lowest free id, so that active ids stay dense. Throws std::logic_error if there is none.
  SeqId acquire();
  void release(SeqId seq);

  bool in_use(SeqId seq) const { return in_use_[seq]; }
  std::int32_t n_seqs() const { return static_cast<std::int32_t>(in_use_.size()); }
  std::int32_t n_free() const { return n_seqs() - n_in_use_; }

 private:
  std::vector<bool> in_use_;
  std::int32_t n_in_use_ = 0;
};

}  // namespace llamaherd

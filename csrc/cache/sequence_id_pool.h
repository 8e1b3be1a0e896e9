#pragma once

#include <cstdint>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// The sequence ids [first, first + n), and which of them are in use.
class SequenceIdPool {
 public:
  explicit SequenceIdPool(std::int32_t n, SeqId first = 0) : first_(first), in_use_(n) {}

  /// The lowest free id, so that active ids stay dense. Throws std::logic_error if there is none.
  SeqId acquire();
  void release(SeqId seq);

  SeqId first() const { return first_; }
  bool in_use(SeqId seq) const { return in_use_[seq - first_]; }
  std::int32_t n_seqs() const { return static_cast<std::int32_t>(in_use_.size()); }
  std::int32_t n_free() const { return n_seqs() - n_in_use_; }

 private:
  SeqId first_;
  std::vector<bool> in_use_;
  std::int32_t n_in_use_ = 0;
};

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <vector>

#include "types.h"

namespace llamaherd {

/// Who holds which sequence id, how many KV cells each uses and how many were promised to it.
/// Admission by promises is what keeps a running request from ever finding the cache full.
class SeqPool {
 public:
  SeqPool(std::int32_t n_seqs, std::int32_t n_cells);

  /// Whether a free id and `n_reserved` unpromised cells exist.
  bool can_acquire(std::int32_t n_reserved) const;

  /// The lowest free id, so that active ids stay dense. Throws std::logic_error if there is none.
  SeqId acquire(std::int32_t n_reserved);
  void release(SeqId seq);

  /// Records that `seq` holds positions [0, length).
  void set_length(SeqId seq, Pos length);

  Pos length(SeqId seq) const { return slots_[seq].length; }
  bool in_use(SeqId seq) const { return slots_[seq].in_use; }
  std::int32_t n_seqs() const { return static_cast<std::int32_t>(slots_.size()); }
  std::int32_t n_seqs_in_use() const { return n_seqs_in_use_; }
  std::int32_t n_cells() const { return n_cells_; }
  std::int32_t n_cells_used() const { return n_used_; }
  std::int32_t n_cells_reserved() const { return n_reserved_; }

 private:
  struct Slot {
    bool in_use = false;
    Pos length = 0;
    std::int32_t n_reserved = 0;
  };
  std::vector<Slot> slots_;
  std::int32_t n_cells_;
  std::int32_t n_used_ = 0;
  std::int32_t n_reserved_ = 0;
  std::int32_t n_seqs_in_use_ = 0;
};

}  // namespace llamaherd

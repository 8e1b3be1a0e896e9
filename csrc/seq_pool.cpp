#include "seq_pool.h"

#include <stdexcept>
#include <string>

namespace llamaherd {

SeqPool::SeqPool(std::int32_t n_seqs, std::int32_t n_cells) : slots_(n_seqs), n_cells_(n_cells) {}

bool SeqPool::can_acquire(std::int32_t n_reserved) const {
  return n_seqs_in_use_ < n_seqs() && n_reserved <= n_cells_ - n_reserved_;
}

SeqId SeqPool::acquire(std::int32_t n_reserved) {
  if (!can_acquire(n_reserved)) {
    throw std::logic_error("SeqPool::acquire of " + std::to_string(n_reserved) +
                           " cells: " + std::to_string(n_cells_ - n_reserved_) + " left, " +
                           std::to_string(n_seqs() - n_seqs_in_use_) + " ids left");
  }
  SeqId seq = 0;
  while (slots_[seq].in_use) ++seq;
  slots_[seq] = {true, 0, n_reserved};
  n_reserved_ += n_reserved;
  ++n_seqs_in_use_;
  return seq;
}

void SeqPool::release(SeqId seq) {
  if (!slots_[seq].in_use) {
    throw std::logic_error("SeqPool::release: sequence " + std::to_string(seq) + " is free");
  }
  n_used_ -= slots_[seq].length;
  n_reserved_ -= slots_[seq].n_reserved;
  --n_seqs_in_use_;
  slots_[seq] = {};
}

void SeqPool::set_length(SeqId seq, Pos length) {
  Slot& slot = slots_[seq];
  if (!slot.in_use || length > slot.n_reserved) {
    throw std::logic_error("SeqPool::set_length: sequence " + std::to_string(seq) + " to " +
                           std::to_string(length) + " of " + std::to_string(slot.n_reserved));
  }
  n_used_ += length - slot.length;
  slot.length = length;
}

}  // namespace llamaherd

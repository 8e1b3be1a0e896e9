#include "cache/sequence_id_pool.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace llamaherd {

SeqId SequenceIdPool::acquire() {
  const auto it = std::find(in_use_.begin(), in_use_.end(), false);
  if (it == in_use_.end()) {
    throw std::logic_error("SequenceIdPool::acquire: all " + std::to_string(n_seqs()) +
                           " ids are in use");
  }
  *it = true;
  ++n_in_use_;
  return first_ + static_cast<SeqId>(it - in_use_.begin());
}

void SequenceIdPool::release(SeqId seq) {
  if (!in_use(seq)) {
    throw std::logic_error("SequenceIdPool::release: sequence " + std::to_string(seq) + " is free");
  }
  in_use_[seq - first_] = false;
  --n_in_use_;
}

}  // namespace llamaherd

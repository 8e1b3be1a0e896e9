#include "engine/invariants.h"

#include <set>

namespace llamaherd {
namespace {

class Checker {
 public:
  void expect(bool ok, const std::string& sentence) {
    if (!ok) found_.push_back(sentence);
  }
  void expect_equal(std::int64_t a, std::int64_t b, const std::string& what) {
    expect(a == b, what + ": " + std::to_string(a) + " != " + std::to_string(b));
  }
  std::vector<std::string> take() { return std::move(found_); }

 private:
  std::vector<std::string> found_;
};

void check_running(const Snapshot& s, Checker& check) {
  std::set<SeqId> held;
  for (const Snapshot::Running& r : s.running) {
    const std::string name = "request " + std::to_string(r.id);
    const bool valid_seq = r.seq >= 0 && r.seq < s.n_seqs;
    check.expect(valid_seq, name + " runs without a sequence");
    if (!valid_seq) continue;
    check.expect(held.insert(r.seq).second, name + " shares its sequence id");
    check.expect(s.sequences[r.seq].in_use, name + " holds a sequence that is free in the pool");
    check.expect_equal(r.kv_len, s.sequences[r.seq].cache_length,
                       name + " committed vs the cache's length");
    check.expect(0 <= r.kv_len && r.kv_len < r.n_tokens + (r.is_late ? 1 : 0),
                 name + " has no token pending");
    check.expect(r.n_prompt >= 1 && r.n_prompt <= r.n_tokens,
                 name + " has an invalid prompt length");
    check.expect(r.kv_len <= r.n_cells_needed, name + " uses more cells than it reserved");
  }
}

}  // namespace

std::vector<std::string> violations(const Snapshot& s) {
  Checker check;
  check_running(s, check);
  std::int64_t n_in_use = 0;
  for (const Snapshot::Sequence& q : s.sequences) {
    const std::string name = "sequence " + std::to_string(q.seq);
    check.expect_equal(q.cache_length, q.backend_length, name + " cache vs backend length");
    if (q.seq >= s.n_seqs) continue;
    check.expect(q.in_use || q.cache_length == 0, name + " is free but holds cells");
    n_in_use += q.in_use;
  }
  for (const std::string& sentence : s.cache_violations) check.expect(false, sentence);
  check.expect_equal(n_in_use, static_cast<std::int64_t>(s.running.size()),
                     "sequences in use vs running requests");
  check.expect(s.n_cells_used <= s.n_cells, "more cells used than exist");
  check.expect(s.n_cells_needed <= s.n_cells, "more cells needed than exist");
  return check.take();
}

}  // namespace llamaherd

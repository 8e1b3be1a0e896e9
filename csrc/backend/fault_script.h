#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "common/types.h"

namespace llamaherd {

/// A fault injected into one decode call.
struct ScriptedFault {
  enum class Kind {
    kAbort,    // returns kAborted after `after` graph nodes
    kFail,     // throws std::bad_alloc after `after` rows
    kExhaust,  // can allocate at most `after` bytes
    kPoison,   // succeeds, but the K/V data of its cells becomes NaN
  };
  Kind kind = Kind::kAbort;
  std::int64_t after = 0;
};

/// Faults to inject into an engine, and a record of those that occurred. Thread-safe.
class FaultScript {
 public:
  /// `call` counts decode calls from 0. Has no effect for a past call.
  void add(std::int64_t call, const ScriptedFault& fault) {
    const std::lock_guard lock(mutex_);
    faults_[call] = fault;
  }

  /// Removes the faults of future calls.
  void clear() {
    const std::lock_guard lock(mutex_);
    faults_.clear();
  }

  /// A call with a row of this token fails after the rows before it.
  void curse(TokenId token) {
    const std::lock_guard lock(mutex_);
    cursed_.insert(token);
  }

  /// K/V data computed from this token is NaN.
  void poison(TokenId token) {
    const std::lock_guard lock(mutex_);
    poisonous_.insert(token);
  }

  /// The fault of the next decode call, if any.
  std::optional<ScriptedFault> next() {
    const std::lock_guard lock(mutex_);
    const auto it = faults_.find(n_calls_++);
    return it == faults_.end() ? std::nullopt : std::optional(it->second);
  }

  void happened(ScriptedFault::Kind kind) {
    const std::lock_guard lock(mutex_);
    ++n_happened_[kind];
  }

  /// Number of rows before the first cursed token; none if there is no such token.
  std::optional<std::size_t> find_cursed(std::span<const TokenId> tokens) const {
    return find(tokens, cursed_);
  }
  std::optional<std::size_t> find_poisonous(std::span<const TokenId> tokens) const {
    return find(tokens, poisonous_);
  }

  std::int64_t n_calls() const {
    const std::lock_guard lock(mutex_);
    return n_calls_;
  }
  std::int64_t n_happened(ScriptedFault::Kind kind) const {
    const std::lock_guard lock(mutex_);
    const auto it = n_happened_.find(kind);
    return it == n_happened_.end() ? 0 : it->second;
  }

 private:
  std::optional<std::size_t> find(std::span<const TokenId> tokens,
                                  const std::set<TokenId>& wanted) const {
    const std::lock_guard lock(mutex_);
    for (std::size_t row = 0; row < tokens.size(); ++row) {
      if (wanted.contains(tokens[row])) return row;
    }
    return std::nullopt;
  }

  mutable std::mutex mutex_;
  std::map<std::int64_t, ScriptedFault> faults_;
  std::set<TokenId> cursed_;
  std::set<TokenId> poisonous_;
  std::int64_t n_calls_ = 0;
  std::map<ScriptedFault::Kind, std::int64_t> n_happened_;
};

}  // namespace llamaherd

#pragma once

#include <cstdint>

namespace llamaherd::kernels {
namespace {

/// Rows and bytes per row of each AMX tile.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  void set(int tile, int n_rows, int n_bytes) {
    rows[tile] = static_cast<std::uint8_t>(n_rows);
    row_bytes[tile] = static_cast<std::uint16_t>(n_rows > 0 ? n_bytes : 0);
  }
};

/// Configures tiles during its lifetime and restores the thread's configuration afterwards: ggml's
/// kernels configure theirs once.
class TileScope {
 public:
  explicit TileScope(const TileConfig& config) {
    asm volatile("sttilecfg %0" : "=m"(before_));
    load(config);
  }
  ~TileScope() { load(before_); }
  TileScope(const TileScope&) = delete;

 private:
  /// GCC's intrinsic declares only eight bytes as read.
  static void load(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }

  TileConfig before_;
};

/// Distance between rows in bytes; 0 if distances differ, which tiles do not support.
template <class T>
std::int64_t stride_of(T* const* rows, std::int64_t n_rows) {
  if (n_rows == 1) return 64;
  const auto distance = [&](std::int64_t r) {
    return reinterpret_cast<const char*>(rows[r]) - reinterpret_cast<const char*>(rows[r - 1]);
  };
  for (std::int64_t r = 2; r < n_rows; ++r) {
    if (distance(r) != distance(1)) return 0;
  }
  return distance(1);
}

/// Call before loading tiles: the intrinsics do not declare that they read memory.
inline void finish_stores() { asm volatile("" ::: "memory"); }

}  // namespace
}  // namespace llamaherd::kernels

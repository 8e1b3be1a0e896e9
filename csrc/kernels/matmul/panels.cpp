#include "kernels/matmul/panels.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <thread>
#include <vector>

#include "ggml.h"
#define GGML_COMMON_DECL_C
#include "ggml-common.h"

namespace llamaherd::kernels {
namespace {

// For less, starting threads takes longer than packing.
constexpr std::size_t kBytesPerThread = std::size_t{1} << 19;

/// Values q of one output and block, as eight groups of four bytes.
using Fours = std::uint32_t[8];

/// Components of a block of one output; scale and min are f16 bits, or bytes for K-quants.
struct BlockParts {
  Fours q;
  std::uint16_t scale[2];
  std::uint16_t min;
};

/// Components of a group of one output.
struct GroupParts {
  std::uint16_t d, dmin;
};

std::uint32_t four(const void* bytes) {
  std::uint32_t value;
  std::memcpy(&value, bytes, 4);
  return value;
}

/// ggml's 4-bit blocks: inputs i in the low nibbles, i + 16 in the high nibbles.
void split_nibbles(const std::uint8_t* qs, Fours& q) {
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t bytes = four(qs + 4 * i);
    q[i] = bytes & 0x0f0f0f0f;
    q[i + 4] = bytes >> 4 & 0x0f0f0f0f;
  }
}

/// Sets bit i of `bits` as the fifth bit of input i.
void add_fifth(std::uint32_t bits, Fours& q) {
  for (int j = 0; j < 8; ++j) {
    const std::uint32_t n = bits >> 4 * j & 0xf;
    // Spreads four bits over four bytes: the product has bit i at position 7i + i.
    q[j] |= (n * 0x00204081u & 0x01010101u) << 4;
  }
}

void read(const block_q4_0& b, BlockParts& out) {
  split_nibbles(b.qs, out.q);
  out.scale[0] = b.d;
}

void read(const block_q4_1& b, BlockParts& out) {
  split_nibbles(b.qs, out.q);
  out.scale[0] = b.d;
  out.min = b.m;
}

void read(const block_q5_0& b, BlockParts& out) {
  split_nibbles(b.qs, out.q);
  add_fifth(four(b.qh), out.q);
  out.scale[0] = b.d;
}

void read(const block_q5_1& b, BlockParts& out) {
  split_nibbles(b.qs, out.q);
  add_fifth(four(b.qh), out.q);
  out.scale[0] = b.d;
  out.min = b.m;
}

void read(const block_q8_0& b, BlockParts& out) {
  for (int j = 0; j < 8; ++j) out.q[j] = four(b.qs + 4 * j) ^ 0x80808080;
  out.scale[0] = b.d;
}

/// Scale and minimum (6 bits) of block j of a group, as Q4_K and Q5_K pack them into 12 bytes.
void read_k_scales(const std::uint8_t* packed, int j, BlockParts& out) {
  if (j < 4) {
    out.scale[0] = packed[j] & 63;
    out.min = packed[j + 4] & 63;
  } else {
    out.scale[0] = (packed[j + 4] & 0xf) | (packed[j - 4] >> 6 << 4);
    out.min = (packed[j + 4] >> 4) | (packed[j] >> 6 << 4);
  }
}

/// Blocks 2i and 2i+1 of Q4_K and Q5_K share 32 bytes: low and high nibbles.
void read_k_nibbles(const std::uint8_t* qs, int j, Fours& q) {
  const std::uint8_t* bytes = qs + 32 * (j / 2);
  for (int i = 0; i < 8; ++i) q[i] = four(bytes + 4 * i) >> 4 * (j % 2) & 0x0f0f0f0f;
}

void read(const block_q4_K& group, int j, BlockParts& out) {
  read_k_nibbles(group.qs, j, out.q);
  read_k_scales(group.scales, j, out);
}

void read(const block_q5_K& group, int j, BlockParts& out) {
  read_k_nibbles(group.qs, j, out.q);
  for (int i = 0; i < 8; ++i) out.q[i] |= (four(group.qh + 4 * i) >> j & 0x01010101) << 4;
  read_k_scales(group.scales, j, out);
}

/// Q6_K stores 128 inputs in 64 bytes of low nibbles and 32 bytes of bit pairs.
void read(const block_q6_K& group, int j, BlockParts& out) {
  const int half = j / 4, quarter = j % 4;
  const std::uint8_t* low = group.ql + 64 * half + 32 * (quarter % 2);
  const std::uint8_t* high = group.qh + 32 * half;
  for (int i = 0; i < 8; ++i) {
    out.q[i] = (four(low + 4 * i) >> 4 * (quarter / 2) & 0x0f0f0f0f) |
               (four(high + 4 * i) >> 2 * quarter & 0x03030303) << 4;
  }
  for (int i = 0; i < 2; ++i) out.scale[i] = static_cast<std::uint8_t>(group.scales[2 * j + i]);
}

template <class Block>
GroupParts read_header(const Block& group) {
  GroupParts parts{};
  parts.d = group.d;
  if constexpr (requires { group.dmin; }) parts.dmin = group.dmin;
  return parts;
}

void store(std::byte* to, std::uint32_t value) { std::memcpy(to, &value, 4); }

/// Writes one output's part of a block.
void write(const Layout& layout, const BlockParts& parts, std::int64_t output, std::byte* block) {
  std::byte* fours = block + 4 * output;
  if (layout.n_bits == 8) {
    for (int j = 0; j < 8; ++j) store(fours + 64 * j, parts.q[j]);
  } else {
    for (int v = 0; v < 4; ++v) {
      const std::uint32_t low = parts.q[2 * v] & 0x0f0f0f0f, high = parts.q[2 * v + 1] & 0x0f0f0f0f;
      store(fours + 64 * v, low | high << 4);
    }
    const int n_more = layout.n_bits - 4;
    std::uint32_t planes[2] = {};
    for (int j = 0; n_more > 0 && j < 8; ++j) {
      const std::uint32_t more = parts.q[j] >> 4 & (n_more == 1 ? 0x01010101u : 0x03030303u);
      planes[n_more * j / 8] |= more << (n_more * j % 8);
    }
    for (int p = 0; p < n_more; ++p) store(fours + layout.planes() + 64 * p, planes[p]);
  }
  std::byte* scales = block + layout.scales();
  std::byte* minimums = block + layout.minimums();
  if (layout.is_k()) {
    for (int i = 0; i < layout.n_scales; ++i) scales[16 * i + output] = std::byte(parts.scale[i]);
    if (layout.has_min) minimums[output] = std::byte(parts.min);
  } else {
    std::memcpy(scales + 2 * output, &parts.scale[0], 2);
    if (layout.has_min) std::memcpy(minimums + 2 * output, &parts.min, 2);
  }
}

/// Packs one row of weights as one output of a panel.
template <class Block, Layout layout>
void pack_row(const void* row, std::int64_t n_in, std::int64_t output, std::byte* panel) {
  const auto* source = static_cast<const Block*>(row);
  BlockParts parts;
  for (std::int64_t g = 0; g < n_in / (kBlockInputs * layout.n_blocks); ++g, ++source) {
    std::byte* group = panel + g * layout.group();
    if constexpr (requires { read(*source, 0, parts); }) {
      const GroupParts header = read_header(*source);
      std::memcpy(group + 2 * output, &header.d, 2);
      if (layout.has_min) std::memcpy(group + 32 + 2 * output, &header.dmin, 2);
      for (int j = 0; j < layout.n_blocks; ++j) {
        read(*source, j, parts);
        write(layout, parts, output, group + layout.header() + j * layout.block());
      }
    } else {
      read(*source, parts);
      write(layout, parts, output, group);
    }
  }
}

template <class Value>
void pack_float_row(const void* row, std::int64_t n_in, std::int64_t output, std::byte* panel) {
  const auto* values = static_cast<const Value*>(row);
  auto* to = reinterpret_cast<Value*>(panel) + output;
  for (std::int64_t i = 0; i < n_in; ++i) to[i * kPanelOutputs] = values[i];
}

struct Format {
  ggml_type type;
  std::int64_t n_inputs;  // per group
  std::size_t n_bytes;    // per group of kPanelOutputs
  void (*pack_row)(const void* row, std::int64_t n_in, std::int64_t output, std::byte* panel);
};

template <class Block, Layout layout>
constexpr Format quantized(ggml_type type) {
  return {type, kBlockInputs * layout.n_blocks, layout.group(), pack_row<Block, layout>};
}

template <class Value>
constexpr Format plain(ggml_type type) {
  return {type, 1, kPanelOutputs * sizeof(Value), pack_float_row<Value>};
}

constexpr Format kFormats[] = {
    quantized<block_q4_0, kLayoutQ4_0>(GGML_TYPE_Q4_0),
    quantized<block_q4_1, kLayoutQ4_1>(GGML_TYPE_Q4_1),
    quantized<block_q5_0, kLayoutQ5_0>(GGML_TYPE_Q5_0),
    quantized<block_q5_1, kLayoutQ5_1>(GGML_TYPE_Q5_1),
    quantized<block_q8_0, kLayoutQ8_0>(GGML_TYPE_Q8_0),
    quantized<block_q4_K, kLayoutQ4_K>(GGML_TYPE_Q4_K),
    quantized<block_q5_K, kLayoutQ5_K>(GGML_TYPE_Q5_K),
    quantized<block_q6_K, kLayoutQ6_K>(GGML_TYPE_Q6_K),
    plain<float>(GGML_TYPE_F32),
    plain<std::uint16_t>(GGML_TYPE_F16),
    plain<std::uint16_t>(GGML_TYPE_BF16),
};

const Format* format_of(const ggml_tensor& weights) {
  const auto* format = std::ranges::find(kFormats, weights.type, &Format::type);
  return format == std::end(kFormats) ? nullptr : format;
}

}  // namespace

bool has_panels(const ggml_tensor& weights) {
  const Format* format = format_of(weights);
  return format && weights.ne[0] > 0 && weights.ne[0] % format->n_inputs == 0 &&
         weights.ne[1] > 0 && weights.ne[3] == 1;
}

std::size_t panel_bytes(const ggml_tensor& weights) {
  const Format& format = *format_of(weights);
  return weights.ne[0] / format.n_inputs * format.n_bytes;
}

std::size_t panels_bytes(const ggml_tensor& weights) {
  const std::int64_t n_panels = (weights.ne[1] + kPanelOutputs - 1) / kPanelOutputs;
  return n_panels * weights.ne[2] * panel_bytes(weights);
}

void pack_panels(const ggml_tensor& weights, const void* rows, std::byte* panels, int n_threads) {
  const Format& format = *format_of(weights);
  const std::int64_t n_out = weights.ne[1];
  const std::int64_t n_panels = (n_out + kPanelOutputs - 1) / kPanelOutputs;
  const std::int64_t n_all = n_panels * weights.ne[2];
  const std::size_t row_bytes = ggml_row_size(weights.type, weights.ne[0]);
  const std::size_t bytes = panel_bytes(weights);
  const auto pack = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      std::byte* panel = panels + p * bytes;
      const std::int64_t first = p % n_panels * kPanelOutputs;
      const std::int64_t n = std::min(kPanelOutputs, n_out - first);
      const char* row = static_cast<const char*>(rows) + (p / n_panels * n_out + first) * row_bytes;
      if (n < kPanelOutputs) std::memset(panel, 0, bytes);
      for (std::int64_t i = 0; i < n; ++i) {
        format.pack_row(row + i * row_bytes, weights.ne[0], i, panel);
      }
    }
  };
  const auto n_workers = std::clamp<std::int64_t>(n_all * bytes / kBytesPerThread, 1, n_threads);
  std::vector<std::thread> workers;
  for (std::int64_t i = 1; i < n_workers; ++i) {
    workers.emplace_back(pack, n_all * i / n_workers, n_all * (i + 1) / n_workers);
  }
  pack(0, n_all / n_workers);
  for (std::thread& worker : workers) worker.join();
}

}  // namespace llamaherd::kernels

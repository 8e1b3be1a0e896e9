#pragma once

#include <cstddef>
#include <cstdint>

struct ggml_tensor;

/// Weight layout of the matrix kernels. A panel has kPanelOutputs consecutive outputs (rows of the
/// weight tensor), interleaved so that one vector register contains the same inputs of all of them.
/// A value is q * scale + min with q an unsigned integer. Every supported type is stored without
/// loss, in its original number of bits.
///
/// Panel of a quantised type: groups of Layout::n_blocks blocks, each group a header (one f16 per
/// output: d; with minimums dmin too) and its blocks. A block covers kBlockInputs inputs:
///   nibbles   256 bytes: [4][16 outputs][4 inputs], byte v of pair v: q of inputs 8v+i in the low
///             half, of inputs 8v+4+i in the high half                        (4, 5 and 6 bits)
///   planes    64 bytes each, [16 outputs][4 inputs]: further bits, n of them for each of 8/n
///             successive fours of inputs, lowest first                       (5 and 6 bits)
///   bytes     512 bytes: [8][16 outputs][4 inputs]                           (8 bits)
///   scales    one f16 per output, or one or two bytes that multiply the header's d
///   minimums  one f16 per output, or one byte that multiplies the header's dmin
/// Panel of F32, F16 and BF16: [inputs][16 outputs].
namespace llamaherd::kernels {

inline constexpr std::int64_t kPanelOutputs = 16;
inline constexpr std::int64_t kBlockInputs = 32;

/// Offsets of the parts of a quantised panel, in bytes.
struct Layout {
  int n_bits;    // of q: 4, 5, 6 or 8
  int n_blocks;  // per group: 1, or 8 for K-quants, whose scales are products
  bool has_min;  // else q stands for q - 2^(n_bits-1), as in signed types
  int n_scales;  // per block and output: 2 for Q6_K, one per half
  constexpr bool is_k() const { return n_blocks > 1; }
  constexpr std::size_t header() const { return is_k() ? (has_min ? 64 : 32) : 0; }
  constexpr std::size_t planes() const { return n_bits == 8 ? 512 : 256; }
  constexpr std::size_t scales() const {
    return planes() + (n_bits == 5 ? 64 : n_bits == 6 ? 128 : 0);
  }
  constexpr std::size_t minimums() const { return scales() + (is_k() ? 16 * n_scales : 32); }
  constexpr std::size_t block() const { return minimums() + (has_min ? (is_k() ? 16 : 32) : 0); }
  constexpr std::size_t group() const { return header() + n_blocks * block(); }
};

inline constexpr Layout kLayoutQ4_0{4, 1, false, 1};
inline constexpr Layout kLayoutQ4_1{4, 1, true, 1};
inline constexpr Layout kLayoutQ5_0{5, 1, false, 1};
inline constexpr Layout kLayoutQ5_1{5, 1, true, 1};
inline constexpr Layout kLayoutQ8_0{8, 1, false, 1};
inline constexpr Layout kLayoutQ4_K{4, 8, true, 1};
inline constexpr Layout kLayoutQ5_K{5, 8, true, 1};
inline constexpr Layout kLayoutQ6_K{6, 8, false, 2};

/// Whether weights of this type and shape can be stored as panels: [n_in, n_out] or, for experts,
/// [n_in, n_out, n_expert].
bool has_panels(const ggml_tensor& weights);

/// Bytes of one panel, and of all panels of a tensor (padded to whole panels of outputs).
std::size_t panel_bytes(const ggml_tensor& weights);
std::size_t panels_bytes(const ggml_tensor& weights);

/// Packs ggml's rows into `panels` on n_threads threads.
void pack_panels(const ggml_tensor& weights, const void* rows, std::byte* panels, int n_threads);

}  // namespace llamaherd::kernels

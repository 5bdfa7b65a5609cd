// The inner loops, one set of them for each instruction set; which one runs is decided when the first is asked for.
//
// A kernels_*.cpp is compiled with the flags of its instruction set, so nothing that it includes may define a function
// that another file could share: the linker keeps one copy of those, and it might be the one this processor can't run.
#pragma once

#include <cstdint>

namespace scvae::cpu {

// Terms that are summed up before the sum goes to memory: a tile of so many rows and a panel of columns stays in the
// second-level cache, and rounding errors don't grow with the number of terms.
inline constexpr std::int64_t kDepth = 512;

inline constexpr int kMaxRows = 3;     // rows of the output that one call of a kernel makes
inline constexpr int kMaxVectors = 8;  // vectors of each of these rows
inline constexpr int kPatterns = 1 << kMaxRows;
inline constexpr int kDenseRows = 6;  // the same of combine_dense

// What becomes of a row u of sums before it is written.
enum class Finish {
  store,          // u
  threshold,      // h_theta(u), for theta >= 0
  threshold_any,  // h_theta(u)
  general,        // h_theta(prior + scale u), or its non-negative form
  adjoint,        // u on the support of `codes`, else 0; also added to `sum`, its sign-weighted sum to `d_theta`
};
inline constexpr int kFinishes = 5;

// out[r] = finish(init[r] + sum_i coefficient[r][index[i]] source[index[i]]) for R rows of V vectors.
template <typename T>
struct Combination {
  const std::int32_t* index;  // combine_dense takes all terms, in their order
  std::int64_t terms;
  // combine_three: index[bounds[p] ... bounds[p + 1]) are the terms of the rows in pattern p
  const std::int32_t* bounds;
  const T* coefficient;
  std::int64_t coefficient_stride;
  const T* source;
  std::int64_t source_stride;
  const T* init;  // null stands for zeros
  std::int64_t init_stride;
  T* out;
  std::int64_t out_stride;
  const T* theta;  // threshold, general
  const T* prior;  // general; null stands for zeros
  std::int64_t prior_stride;
  bool scaled;  // general: whether `scale` is to be multiplied with
  T scale;
  bool positive;   // general
  const T* codes;  // adjoint
  std::int64_t codes_stride;
  T* sum;  // adjoint
  std::int64_t sum_stride;
  T* d_theta;  // adjoint; null where it is not wanted
};

template <typename T>
struct Kernels {
  using Combine = void (*)(const Combination<T>&);

  std::int64_t lanes;                                     // elements of a vector
  std::int64_t wide;                                      // vectors of a panel, at most
  Combine combine[kFinishes][kMaxRows - 1][kMaxVectors];  // [finish][R - 1][V - 1]
  Combine combine_three[kFinishes][kMaxVectors];          // [finish][V - 1]
  Combine combine_dense[kFinishes][kMaxVectors];          // of kDenseRows: likewise

  // Of at most kDepth columns, writes those in which at least one of so many rows is not zero (a NaN is not),
  // ascending; returns how many. Up to 16 entries beyond those are overwritten.
  std::int64_t (*support)(const T* rows, std::int64_t stride, int count, std::int64_t columns, std::int32_t* index);
  // Likewise for three rows, but sorted by pattern: the set of rows in which a column is not zero, as bits. Writes also
  // bounds[0 ... kPatterns], where each pattern begins; pattern 0 is empty.
  void (*patterns)(const T* rows, std::int64_t stride, std::int64_t columns, std::int32_t* index, std::int32_t* bounds);
  // Sets the bits of the columns in which a row is not zero (a NaN is not), column j's being bit j % 64 of word j / 64;
  // returns how many there are.
  std::int64_t (*mark)(const T* row, std::int64_t columns, std::uint64_t* mask);
  // out[i] = init[i] + the sum over k of matrix[i][k] z[k], for so many rows of the matrix; no init stands for zeros
  void (*dots)(const T* matrix, std::int64_t stride, std::int64_t rows, std::int64_t columns, const T* z, const T* init,
               T* out);
  // out[j] = h_theta(gain * b[j]), or its non-negative form
  void (*start)(const T* b, T gain, const T* theta, bool positive, std::int64_t columns, T* out);
  // out[j] = z[j] + momentum (z[j] - before[j])
  void (*extrapolate)(const T* z, const T* before, T momentum, std::int64_t columns, T* out);
  // out[j] = g[j] where codes[j] is not zero, else 0; d_theta[j] -= sign(codes[j]) out[j], unless it is null.
  void (*gate)(const T* g, const T* codes, std::int64_t columns, T* out, T* d_theta);
  // out[j] = factor in[j]
  void (*scale)(const T* in, T factor, std::int64_t columns, T* out);
  // out[j] += in[j]
  void (*add)(const T* in, std::int64_t columns, T* out);
  // q[j] += g[j];  g[j] = carried[j] + q[j] + momentum q[j];  carried[j] = -momentum q[j]; no momentum stands for 0.
  void (*pull)(T* q, const T* momentum, std::int64_t columns, T* g, T* carried);
  // The sum over j of a[j] (b[j] - c[j]); no c stands for zeros.
  double (*dot)(const T* a, const T* b, const T* c, std::int64_t columns);
  // out[j][i] = in[i][j]
  void (*transpose)(const T* in, std::int64_t in_stride, std::int64_t rows, std::int64_t columns, T* out,
                    std::int64_t out_stride);
  bool (*all_finite)(const T* values, std::int64_t size);
};

template <typename T>
const Kernels<T>& kernels();

}  // namespace scvae::cpu

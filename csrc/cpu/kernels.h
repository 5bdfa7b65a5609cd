// The inner loops, with a set for each instruction set; the choice is made when the first one is requested.
//
// A kernels_*.cpp is compiled with the flags of its instruction set, so it must not include anything that defines a
// function shared with other files: the linker keeps only one copy, which this processor might not be able to run.
#pragma once

#include <cstdint>

namespace scvae::cpu {

// Number of terms that are summed before the sum goes to memory: a tile with this many rows and a panel of columns
// fits into the second-level cache, and rounding errors don't grow with the number of terms.
inline constexpr std::int64_t kDepth = 512;

inline constexpr int kMaxRows = 3;     // output rows of one kernel call
inline constexpr int kMaxVectors = 8;  // vectors in each of these rows
inline constexpr int kPatterns = 1 << kMaxRows;
inline constexpr int kDenseRows = 6;  // output rows of combine_dense

// How a row u of sums is finished before it is written.
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
  const std::int32_t* index;  // combine_dense takes all terms, in order
  std::int64_t terms;
  // combine_three: index[bounds[p] ... bounds[p + 1]) are the terms of the rows in pattern p
  const std::int32_t* bounds;
  const T* coefficient;
  std::int64_t coefficient_stride;
  const T* source;
  std::int64_t source_stride;
  const T* init;  // null means zeros
  std::int64_t init_stride;
  T* out;
  std::int64_t out_stride;
  const T* theta;  // threshold, general
  const T* prior;  // general; null means zeros
  std::int64_t prior_stride;
  bool scaled;  // general: whether to multiply by `scale`
  T scale;
  bool positive;   // general
  const T* codes;  // adjoint
  std::int64_t codes_stride;
  T* sum;  // adjoint
  std::int64_t sum_stride;
  T* d_theta;  // adjoint; null if it is not wanted
};

template <typename T>
struct Kernels {
  using Combine = void (*)(const Combination<T>&);

  std::int64_t lanes;                                     // elements per vector
  std::int64_t wide;                                      // largest number of vectors in a panel
  Combine combine[kFinishes][kMaxRows - 1][kMaxVectors];  // [finish][R - 1][V - 1]
  Combine combine_three[kFinishes][kMaxVectors];          // [finish][V - 1]
  Combine combine_dense[kFinishes][kMaxVectors];          // for kDenseRows: likewise

  // Writes, in ascending order, those of at most kDepth columns in which at least one of the rows is nonzero (NaN
  // counts as nonzero); returns their number. Up to 16 entries beyond the result are overwritten.
  std::int64_t (*support)(const T* rows, std::int64_t stride, int count, std::int64_t columns, std::int32_t* index);
  // Likewise for three rows, but sorted by pattern: the set of rows in which a column is nonzero, as bits. Also writes
  // bounds[0 ... kPatterns], where each pattern starts; pattern 0 is empty.
  void (*patterns)(const T* rows, std::int64_t stride, std::int64_t columns, std::int32_t* index, std::int32_t* bounds);
  // Sets the bits of the columns in which a row is nonzero (NaN counts as nonzero); column j's is bit j % 64 of word
  // j / 64. Returns their number.
  std::int64_t (*mark)(const T* row, std::int64_t columns, std::uint64_t* mask);
  // out[i] = init[i] + the sum over k of matrix[i][k] z[k], for a number of rows of the matrix; null init means zeros
  void (*dots)(const T* matrix, std::int64_t stride, std::int64_t rows, std::int64_t columns, const T* z, const T* init,
               T* out);
  // out[j] = h_theta(gain * b[j]), or its non-negative form
  void (*start)(const T* b, T gain, const T* theta, bool positive, std::int64_t columns, T* out);
  // out[j] = z[j] + momentum (z[j] - before[j])
  void (*extrapolate)(const T* z, const T* before, T momentum, std::int64_t columns, T* out);
  // out[j] = g[j] where codes[j] is nonzero, else 0; d_theta[j] -= sign(codes[j]) out[j], unless it is null.
  void (*gate)(const T* g, const T* codes, std::int64_t columns, T* out, T* d_theta);
  // out[j] = factor in[j]
  void (*scale)(const T* in, T factor, std::int64_t columns, T* out);
  // out[j] += in[j]
  void (*add)(const T* in, std::int64_t columns, T* out);
  // q[j] += g[j];  g[j] = carried[j] + q[j] + momentum q[j];  carried[j] = -momentum q[j]; null momentum means 0.
  void (*pull)(T* q, const T* momentum, std::int64_t columns, T* g, T* carried);
  // The sum over j of a[j] (b[j] - c[j]); null c means zeros.
  double (*dot)(const T* a, const T* b, const T* c, std::int64_t columns);
  // out[j][i] = in[i][j]
  void (*transpose)(const T* in, std::int64_t in_stride, std::int64_t rows, std::int64_t columns, T* out,
                    std::int64_t out_stride);
  bool (*all_finite)(const T* values, std::int64_t size);
};

template <typename T>
const Kernels<T>& kernels();

}  // namespace scvae::cpu

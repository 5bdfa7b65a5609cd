// The inner loops of the lasso: a set of them for each instruction set, as in kernels.h, whose rule for what may be
// included holds here too.
#pragma once

#include <cstdint>

namespace scvae::cpu {

// A row's problem over some of its atoms, with their Gram matrix at hand. Vectors and rows are aligned to kLine, and
// padded by at least one element to whole vectors of any instruction set: `alpha` with numbers above 0, the others with
// zeros.
template <typename T>
struct WorkingSet {
  std::int64_t size;
  std::int64_t stride;  // between the rows of `gram`
  const T* gram;        // (size, stride)
  const T* inverse;     // 1 / gram[j][j]
  const T* alpha;
  bool positive;
  T* codes;
  T* correlations;  // of the atoms with the residual, kept up to date
};

// What the duality gap of a working set is made of.
template <typename T>
struct GapTerms {
  T ratio;     // the largest |correlation| / alpha; of correlation / alpha for non-negative codes
  T absolute;  // the sum of alpha |code|
  T product;   // the sum of code * correlation
  T size;      // the largest |code|
};

template <typename T>
struct LassoKernels {
  // The largest |x[i]|.
  T (*largest)(const T* x, std::int64_t size);
  // The sum of (by x[i])^2, in double.
  double (*square)(const T* x, double by, std::int64_t size);
  // The same of each column of a matrix.
  void (*column_squares)(const T* matrix, std::int64_t stride, std::int64_t rows, std::int64_t columns, double* out);
  // The largest |g[j]| inverse[j], or g[j] inverse[j] for non-negative codes; at least 0.
  T (*largest_ratio)(const T* g, const T* inverse, std::int64_t columns, bool positive);
  // Writes the columns whose ratio is above `bound`, ascending; returns how many. Up to 16 entries beyond those are
  // overwritten.
  std::int64_t (*above)(const T* g, const T* inverse, std::int64_t columns, bool positive, T bound,
                        std::int32_t* index);
  // One round of coordinate descent; returns the largest change of a code, as an absolute value.
  T (*sweep)(const WorkingSet<T>& set);
  // Solves for the nonzero codes with their present signs, and moves there; if a code would change its sign, either
  // moves only until one becomes zero, or stops all such codes at zero, whichever is better. Returns 1 if signs
  // changed, 2 if all were kept, and 0, with nothing changed, if rounding prevented a solution. Scratch: (size + 6) *
  // stride elements, and 16 indices more than the set has atoms.
  int (*jump)(const WorkingSet<T>& set, T* scratch, std::int32_t* index);
  GapTerms<T> (*gap_terms)(const WorkingSet<T>& set);
  // out[i] = x[i] / scale - the sum over the terms of codes[t] atoms[index[t]][i], in double
  void (*residual)(const T* x, double scale, const T* atoms, std::int64_t stride, const std::int32_t* index,
                   const T* codes, std::int64_t terms, std::int64_t features, double* out);
};

template <typename T>
const LassoKernels<T>& lasso_kernels();

}  // namespace scvae::cpu

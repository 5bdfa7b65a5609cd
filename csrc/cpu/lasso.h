// The lasso: for each row x the codes z that minimise 1/2 |x - D z|^2 + sum of alpha[k] |z[k]|, and a bound on their
// distance from the minimum.
#pragma once

#include <cstdint>

#include "lista.h"

namespace scvae::cpu {

template <typename T>
struct LassoProblem {
  std::int64_t rows = 0;      // M
  std::int64_t atoms = 0;     // K
  std::int64_t features = 0;  // n
  Rows<T> x;                  // (M, n), finite
  Rows<T> D;                  // (n, K)
  bool gram = false;          // whether to work on D^T D, of which few rows of x need only a part
  Rows<T> alpha;              // (M, K), above 0; a stride of 0 stands for the same in all rows
  Rows<T> z0;                 // (M, K); data is null where the start is 0
  bool positive = false;      // z >= 0
  double tolerance = 0;       // for the relative gap
  std::int64_t sweeps = 0;    // of a row, at most
};

// Writes codes (M, K), and for each row the duality gap as a share of 1/2 |x|^2. Returns false, and writes nothing,
// where D is not finite or has a column of zeros.
template <typename T>
bool lasso(const LassoProblem<T>& problem, T* codes, double* gap, int threads);

}  // namespace scvae::cpu

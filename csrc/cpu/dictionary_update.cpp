#include "cpu/dictionary_update.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/product.h"

namespace scvae::cpu {

template <typename T>
void update_atoms(std::int64_t atoms, std::int64_t features, T* D, Rows<T> A, Rows<T> B, bool positive) {
  constexpr double tiny = std::numeric_limits<T>::min();
  const Kernels<T>& k = kernels<T>();
  const Panelling by(features, k.lanes, k.wide);
  Matrix<T> own(atoms, features), sums(1, features);
  for (std::int64_t j = 0; j < atoms; ++j) own.set_row(j, D + j * features);
  std::vector<std::int32_t> all(static_cast<std::size_t>(atoms));
  std::iota(all.begin(), all.end(), 0);
  std::vector<double> best(static_cast<std::size_t>(features));
  for (std::int64_t j = 0; j < atoms; ++j) {
    const auto energy = static_cast<double>(A[j][j]);
    if (!(energy > tiny)) continue;
    Combination<T> c = {};
    c.index = all.data();
    c.terms = atoms;
    c.coefficient = A[j];
    c.source_stride = own.stride();
    for (std::int64_t panel = 0; panel < by.panels; ++panel) {
      c.source = own.row(0) + by.begin(panel);
      c.out = sums.row(0) + by.begin(panel);
      k.combine[static_cast<int>(Finish::store)][0][by.width(panel) / by.lanes - 1](c);
    }
    double square = 0;
    T* atom = own.row(j);
    for (std::int64_t f = 0; f < features; ++f) {
      double& u = best[static_cast<std::size_t>(f)];
      u = static_cast<double>(atom[f]) + (static_cast<double>(B[j][f]) - static_cast<double>(sums.row(0)[f])) / energy;
      if (positive) u = std::max(u, 0.0);
      square += u * u;
    }
    const double norm = std::sqrt(square);
    if (!(norm > tiny)) continue;
    for (std::int64_t f = 0; f < features; ++f) atom[f] = static_cast<T>(best[static_cast<std::size_t>(f)] / norm);
  }
  for (std::int64_t j = 0; j < atoms; ++j) own.get_row(j, D + j * features);
}

template void update_atoms(std::int64_t, std::int64_t, float*, Rows<float>, Rows<float>, bool);
template void update_atoms(std::int64_t, std::int64_t, double*, Rows<double>, Rows<double>, bool);

}  // namespace scvae::cpu

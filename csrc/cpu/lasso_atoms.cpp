#include "cpu/lasso_atoms.h"

#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace scvae::cpu {
namespace {

constexpr std::int64_t kAlone = 2 * kDenseRows;  // rows of x: below that one thread has them all

// Powers of two within a factor of two of the norms of columns.
template <typename T>
Buffer<T> units_of(Rows<T> D, std::int64_t features, std::int64_t atoms) {
  const auto count = static_cast<std::size_t>(atoms);
  std::vector<double> largest(count, 0), square(count, 0);
  for (std::int64_t f = 0; f < features; ++f)
    for (std::size_t k = 0; k < count; ++k) {
      const double size = std::fabs(static_cast<double>(D[f][k]));
      largest[k] = size > largest[k] ? size : largest[k];
    }
  for (std::int64_t f = 0; f < features; ++f)
    for (std::size_t k = 0; k < count; ++k) {
      const double share = static_cast<double>(D[f][k]) / largest[k];
      square[k] += share * share;
    }
  Buffer<T> found(atoms);
  for (std::size_t k = 0; k < count; ++k)
    found.data()[k] = static_cast<T>(std::exp2(std::ilogb(largest[k] * std::sqrt(square[k]))));
  return found;
}

// D with its columns divided by their units, and zeros up to whole vectors.
template <typename T>
Matrix<T> scaled(Rows<T> D, std::int64_t features, std::int64_t atoms, const T* units) {
  Matrix<T> out(features, padded<T>(atoms));
  for (std::int64_t f = 0; f < features; ++f) {
    const T* from = D[f];
    T* row = out.row(f);
    for (std::int64_t k = 0; k < atoms; ++k) row[k] = from[k] / units[k];
    std::fill(row + atoms, row + out.columns(), T(0));
  }
  return out;
}

// The columns of a panel of out = coefficients D, for kDenseRows rows.
template <typename T>
void correlate_panel(const Packed<T>& packed, const Panelling& by, std::int64_t panel, const T* coefficients,
                     std::int64_t stride, T* out, std::int64_t out_stride) {
  const Kernels<T>& k = kernels<T>();
  const Factor<T> factor = packed.factor();
  for (std::int64_t first = 0; first < factor.terms; first += kDepth) {
    Combination<T> c = {};
    c.terms = std::min(kDepth, factor.terms - first);
    c.coefficient = coefficients + first;
    c.coefficient_stride = stride;
    c.source = factor.tile(first, by, panel);
    c.source_stride = by.width(panel);
    c.out = out + by.begin(panel);
    c.out_stride = out_stride;
    c.init = first == 0 ? nullptr : c.out;
    c.init_stride = out_stride;
    k.combine_dense[static_cast<int>(Finish::store)][by.width(panel) / by.lanes - 1](c);
  }
}

}  // namespace

template <typename T>
LassoAtoms<T>::LassoAtoms(const LassoProblem<T>& problem, int threads)
    : atoms_(problem.atoms),
      features_(problem.features),
      columns_(padded<T>(problem.atoms)),
      by_(columns_, kernels<T>().lanes, kernels<T>().wide),
      units_(units_of(problem.D, features_, atoms_)),
      rows_(columns_, features_),
      packed_(features_, columns_),
      gram_(problem.gram ? columns_ : 0, columns_),
      has_gram_(problem.gram) {
  const Matrix<T> D = scaled(problem.D, features_, atoms_, units_.data());
  packed_.pack(D.rows(), features_, threads);
  rows_.zero();  // products of atoms read whole vectors
  kernels<T>().transpose(D.row(0), D.stride(), features_, columns_, rows_.row(0), rows_.stride());
  if (has_gram_ && problem.rows >= kAlone) form_all(threads);
  if (has_gram_ && problem.rows < kAlone) missing_.assign(static_cast<std::size_t>(columns_), true);
}

// Rows of a panel at a time; what is left of the diagonal is mirrored, which changes nothing, for the sums of both
// halves have the same terms in the same order.
template <typename T>
void LassoAtoms<T>::form_all(int threads) {
  parallel_for(by_.panels, team_size(threads, by_.panels), [&](std::int64_t above, int) {
    const std::int64_t begin = by_.begin(above), end = by_.begin(above + 1);
    for (std::int64_t panel = above; panel < by_.panels; ++panel) {
      for (std::int64_t row = begin; row < end; row += kDenseRows) {
        const std::int64_t first = std::max<std::int64_t>(0, std::min(row, end - kDenseRows));
        correlate_panel(packed_, by_, panel, rows_.row(first), rows_.stride(), gram_.row(first), gram_.stride());
      }
      if (panel > above)
        kernels<T>().transpose(gram_.row(begin) + by_.begin(panel), gram_.stride(), end - begin, by_.width(panel),
                               gram_.row(by_.begin(panel)) + begin, gram_.stride());
    }
  });
}

template <typename T>
void LassoAtoms<T>::need(const std::int32_t* atoms, std::int64_t count) {
  if (missing_.empty()) return;
  std::vector<std::int32_t> wanted;
  for (std::int64_t i = 0; i < count; ++i)
    if (missing_[static_cast<std::size_t>(atoms[i])]) wanted.push_back(atoms[i]);
  const auto found = static_cast<std::int64_t>(wanted.size());
  if (found == 0) return;
  const std::int64_t padded_count = (found + kDenseRows - 1) / kDenseRows * kDenseRows;
  Matrix<T> coefficients(padded_count, features_), products(padded_count, columns_);
  for (std::int64_t i = 0; i < padded_count; ++i)
    coefficients.set_row(i, rows_.row(wanted[static_cast<std::size_t>(std::min(i, found - 1))]));
  correlate(coefficients, padded_count, products);
  for (std::int64_t i = 0; i < found; ++i) {
    const std::int32_t atom = wanted[static_cast<std::size_t>(i)];
    products.get_row(i, gram_.row(atom));
    missing_[static_cast<std::size_t>(atom)] = false;
  }
}

template <typename T>
void LassoAtoms<T>::correlate(const Matrix<T>& coefficients, std::int64_t rows, Matrix<T>& out) const {
  for (std::int64_t panel = 0; panel < by_.panels; ++panel)
    for (std::int64_t row = 0; row < rows; row += kDenseRows)
      correlate_panel(packed_, by_, panel, coefficients.row(row), coefficients.stride(), out.row(row), out.stride());
}

template class LassoAtoms<float>;
template class LassoAtoms<double>;

}  // namespace scvae::cpu

#include "cpu/lasso_atoms.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "cpu/kernels.h"
#include "cpu/lasso_kernels.h"
#include "cpu/parallel.h"

namespace scvae::cpu {
namespace {

constexpr std::int64_t kAlone = 2 * kDenseRows;  // rows of x; below that, one thread has them all

// The exponent of a column's sum of squares where that is out of range; nothing where the column is no atom.
template <typename T>
std::optional<int> careful_exponent(Rows<T> D, std::int64_t features, std::int64_t atom) {
  double largest = 0, square = 0;
  for (std::int64_t f = 0; f < features; ++f) {
    const double size = std::fabs(static_cast<double>(D[f][atom]));
    if (!std::isfinite(size)) return std::nullopt;
    largest = std::max(largest, size);
  }
  if (largest == 0) return std::nullopt;
  for (std::int64_t f = 0; f < features; ++f) {
    const double share = std::scalbn(static_cast<double>(D[f][atom]), -std::ilogb(largest));
    square += share * share;
  }
  return 2 * std::ilogb(largest) + std::ilogb(square);
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
      units_(atoms_),
      valid_(find_units(problem.D)),
      D_(scaled(problem.D)),
      rows_(columns_, features_),
      packed_(features_, columns_),
      gram_(problem.gram ? columns_ : 0, columns_),
      has_gram_(problem.gram) {
  if (!valid_) return;
  const bool few = problem.rows < kAlone;
  packed_.pack(D_, features_, few ? 1 : threads);
  if (few) {
    missing_.assign(static_cast<std::size_t>(columns_), true);
    return;
  }
  for (std::int64_t k = 0; k < columns_; ++k)  // products of atoms read whole vectors
    std::fill(rows_.row(k) + features_, rows_.row(k) + padded<T>(features_), T(0));
  kernels<T>().transpose(D_.data, D_.stride, features_, columns_, rows_.row(0), rows_.stride());
  if (has_gram_) form_all(threads);
}

// Powers of two within a factor of the square root of 2 of the norms of columns: 1 for atoms of norm 1.
template <typename T>
bool LassoAtoms<T>::find_units(Rows<T> D) {
  constexpr double least = 1e-250, most = 1e250;
  constexpr int largest = std::numeric_limits<T>::max_exponent - 1;
  std::vector<double> squares(static_cast<std::size_t>(atoms_));
  lasso_kernels<T>().column_squares(D.data, D.stride, features_, atoms_, squares.data());
  for (std::int64_t k = 0; k < atoms_; ++k) {
    const double square = squares[static_cast<std::size_t>(k)];
    const bool in_range = square >= least && square <= most;
    const std::optional<int> exponent = in_range ? std::ilogb(square) : careful_exponent(D, features_, k);
    if (!exponent) return false;
    const int half = std::min(*exponent >= 0 ? (*exponent + 1) / 2 : *exponent / 2, largest);
    units_.data()[k] = half == 0 ? T(1) : static_cast<T>(std::scalbn(1.0, half));
  }
  return true;
}

// With zeros up to whole vectors.
template <typename T>
Rows<T> LassoAtoms<T>::scaled(Rows<T> D) {
  const T* units = units_.data();
  const bool whole = atoms_ == columns_;
  if (!valid_ || (whole && std::all_of(units, units + atoms_, [](T unit) { return unit == T(1); }))) return D;
  own_.emplace_back(features_, columns_);
  for (std::int64_t f = 0; f < features_; ++f) {
    const T* from = D[f];
    T* row = own_[0].row(f);
    for (std::int64_t k = 0; k < atoms_; ++k) row[k] = from[k] / units[k];
    std::fill(row + atoms_, row + columns_, T(0));
  }
  return own_[0].rows();
}

// Rows of a panel at a time. The part left of the diagonal is mirrored; that changes nothing, because the sums of both
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
  coefficients.zero();
  for (std::int64_t f = 0; f < features_; ++f)
    for (std::int64_t i = 0; i < found; ++i) coefficients.row(i)[f] = D_[f][wanted[static_cast<std::size_t>(i)]];
  if (has_gram_) correlate(coefficients, padded_count, products);
  for (std::int64_t i = 0; i < found; ++i) {
    const std::int32_t atom = wanted[static_cast<std::size_t>(i)];
    rows_.set_row(atom, coefficients.row(i));
    if (has_gram_) products.get_row(i, gram_.row(atom));
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

// The atoms of a lasso as its solver reads them: scaled to norms near 1 by powers of two, packed, one a row, and their
// Gram matrix.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/lasso.h"
#include "cpu/memory.h"
#include "cpu/product.h"

namespace scvae::cpu {

template <typename T>
class LassoAtoms {
 public:
  LassoAtoms(const LassoProblem<T>& problem, int threads);

  bool valid() const { return valid_; }  // whether D is finite and has no column of zeros; nothing is computed if not
  std::int64_t columns() const { return columns_; }  // atoms, padded
  const T* units() const { return units_.data(); }   // powers of two; each atom is divided by its own
  const Matrix<T>& rows() const { return rows_; }    // one a row
  bool has_gram() const { return has_gram_; }
  const Matrix<T>& gram() const { return gram_; }

  // Computes missing atoms, and their rows of the Gram matrix. With few rows of x, a single thread calls this;
  // otherwise all are there from the start.
  void need(const std::int32_t* atoms, std::int64_t count);
  // out = coefficients D for `rows` rows. The sums of a row don't depend on its place. Both matrices have whole units
  // of kDenseRows.
  void correlate(const Matrix<T>& coefficients, std::int64_t rows, Matrix<T>& out) const;

 private:
  bool find_units(Rows<T> D);
  Rows<T> scaled(Rows<T> D);
  void form_all(int threads);

  std::int64_t atoms_;
  std::int64_t features_;
  std::int64_t columns_;
  Panelling by_;
  Buffer<T> units_;
  bool valid_;
  std::vector<Matrix<T>> own_;  // D with its columns divided by their units, where that is another matrix
  Rows<T> D_;                   // that, or D itself
  Matrix<T> rows_;
  Packed<T> packed_;
  Matrix<T> gram_;
  bool has_gram_;
  std::vector<bool> missing_;  // atoms; empty where none is
};

}  // namespace scvae::cpu

// What surrounds the iteration in sparse_code: the filter before it and the dictionary after it.
#pragma once

#include <optional>

#include "cpu/blocks.h"
#include "cpu/product.h"

namespace scvae::cpu {

// out.row(first + r) = coefficients.row(r) * matrix
template <typename T>
void multiply_rows(Rows<T> coefficients, const Packed<T>& matrix, std::int64_t rows, Matrix<T>& out, std::int64_t first,
                   Supports& supports) {
  Product<T> product;
  product.factor = matrix.factor();
  product.coefficients = coefficients;
  product.rows = rows;
  product.zeros = matrix.finite() ? Zeros::skip : Zeros::keep;
  product.out = out.row(first);
  product.out_stride = out.stride();
  multiply(product, supports);
}

// out.row(first + r) = matrix * vectors.row(r), reading the rows of the matrix as they are: for few vectors
template <typename T>
void multiply_by_dots(Rows<T> matrix, std::int64_t matrix_rows, Rows<T> vectors, std::int64_t columns,
                      std::int64_t rows, Matrix<T>& out, std::int64_t first) {
  for (std::int64_t r = 0; r < rows; ++r) {
    T* target = out.row(first + r);
    kernels<T>().dots(matrix.data, matrix.stride, matrix_rows, columns, vectors[r], nullptr, target);
    std::fill(target + matrix_rows, target + padded<T>(matrix_rows), T(0));
  }
}

template <typename T>
class Bottleneck {
 public:
  // `reconstructs` is whether `reconstruct` will be called.
  Bottleneck(const SparseCodeProblem<T>& p, bool reconstructs, int threads) : p_(p) {
    if (p.lista.rows <= kFewRows) return;
    filter_.emplace(Packed<T>::transposed(p.W_e, p.lista.atoms, p.features, threads));
    if (reconstructs) dictionary_.emplace(Packed<T>::transposed(p.D, p.features, p.lista.atoms, threads));
  }

  // b = x W_e^T of so many rows, into the rows of b from `first` on
  void drive(std::int64_t begin, std::int64_t rows, Matrix<T>& b, std::int64_t first, Supports& supports) const {
    const Rows<T> x{p_.x[begin], p_.x.stride};
    if (filter_.has_value())
      multiply_rows(x, *filter_, rows, b, first, supports);
    else
      multiply_by_dots(p_.W_e, p_.lista.atoms, x, p_.features, rows, b, first);
  }

  // x_hat = z D^T
  void reconstruct(Rows<T> z, std::int64_t rows, Matrix<T>& x_hat, Supports& supports) const {
    if (dictionary_.has_value())
      multiply_rows(z, *dictionary_, rows, x_hat, 0, supports);
    else
      multiply_by_dots(p_.D, p_.features, z, p_.lista.atoms, rows, x_hat, 0);
  }

  std::int64_t features() const { return p_.features; }
  Rows<T> x() const { return p_.x; }

 private:
  const SparseCodeProblem<T>& p_;
  // Packed, where there are rows enough to be worth it.
  std::optional<Packed<T>> filter_;
  std::optional<Packed<T>> dictionary_;
};

}  // namespace scvae::cpu

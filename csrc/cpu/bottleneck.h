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

template <typename T>
class Bottleneck {
 public:
  // `reconstructs` is whether `reconstruct` will be called.
  Bottleneck(const SparseCodeProblem<T>& p, bool reconstructs, int threads) : p_(p), threads_(threads) {
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
      multiply_by_dots<T>({p_.W_e, p_.lista.atoms, p_.features}, x, {}, rows, b.row(first), b.stride(), threads_);
  }

  // x_hat = z D^T
  void reconstruct(Rows<T> z, std::int64_t rows, Matrix<T>& x_hat, Supports& supports) const {
    if (dictionary_.has_value())
      multiply_rows(z, *dictionary_, rows, x_hat, 0, supports);
    else
      multiply_by_dots<T>({p_.D, p_.features, p_.lista.atoms}, z, {}, rows, x_hat.row(0), x_hat.stride(), threads_);
  }

  std::int64_t features() const { return p_.features; }
  Rows<T> x() const { return p_.x; }

 private:
  const SparseCodeProblem<T>& p_;
  int threads_;
  // Packed, where there are rows enough to be worth it.
  std::optional<Packed<T>> filter_;
  std::optional<Packed<T>> dictionary_;
};

}  // namespace scvae::cpu

// What surrounds the iteration in sparse_code: the filters before it and the dictionary after it; and the factored form
// of the iteration, which consists only of these.
#pragma once

#include <optional>
#include <vector>

#include "cpu/blocks.h"
#include "cpu/iteration.h"
#include "cpu/product.h"

namespace scvae::cpu {

// out.row(first + r) = coefficients.row(r) * matrix
template <typename T>
void multiply_rows(Rows<T> coefficients, const Packed<T>& matrix, std::int64_t rows, Matrix<T>& out, std::int64_t first,
                   Supports& supports) {
  Product<T> product = product_of(coefficients, matrix, rows);
  product.into(out, first);
  multiply(product, supports);
}

template <typename T>
class Bottleneck {
 public:
  // `reconstructs` is whether `reconstruct` will be called.
  Bottleneck(const SparseCodeProblem<T>& p, bool reconstructs, int threads) : p_(p), threads_(threads) {
    if (factored()) {
      minus_dictionary_.emplace(Packed<T>::transposed(p.D, p.features, p.lista.atoms, threads));
      minus_dictionary_->negate();
    }
    if (p.lista.rows <= kFewRows && !factored()) return;
    for (std::int64_t i = 0; i < filters(); ++i)
      filter_.push_back(Packed<T>::transposed(filter(i), p.lista.atoms, p.features, threads));
    if (reconstructs) dictionary_.emplace(Packed<T>::transposed(p.D, p.features, p.lista.atoms, threads));
  }

  bool factored() const { return p_.lista.factored; }
  bool has_drive_for_each() const { return p_.W_e_each != 0; }
  std::int64_t filters() const { return how_many(p_.W_e_each, p_.lista.row(p_.lista.n_iter)); }
  Rows<T> filter(std::int64_t i) const { return {p_.W_e.data + i * p_.W_e_each, p_.W_e.stride}; }

  // b = x W_e^T of a number of rows with that filter, into the rows of b from `first` on
  void drive(std::int64_t row, std::int64_t begin, std::int64_t rows, Matrix<T>& b, std::int64_t first,
             Supports& supports) const {
    const Rows<T> x{p_.x[begin], p_.x.stride};
    if (!filter_.empty())
      multiply_rows(x, of_iteration(filter_, row), rows, b, first, supports);
    else
      multiply_by_dots<T>({filter(has_drive_for_each() ? row : 0), p_.lista.atoms, p_.features}, x, {}, rows,
                          b.row(first), b.stride(), threads_);
  }

  // out = x - y D^T
  void residual(std::int64_t begin, Rows<T> y, std::int64_t rows, Matrix<T>& out, std::int64_t first,
                Supports& supports) const {
    for (std::int64_t r = 0; r < rows; ++r) out.set_row(first + r, p_.x[begin + r]);
    Product<T> product = product_of(y, *minus_dictionary_, rows);
    product.init = out.rows(first);
    product.into(out, first);
    multiply(product, supports);
  }

  // The product of residuals with the filter of iteration t.
  Product<T> filtered(std::int64_t t, Rows<T> residuals, std::int64_t rows) const {
    return product_of(residuals, of_iteration(filter_, p_.lista.row(t)), rows);
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
  // Packed, if there are enough rows for it to pay.
  std::vector<Packed<T>> filter_;
  std::optional<Packed<T>> dictionary_;
  std::optional<Packed<T>> minus_dictionary_;  // for the factored form
};

}  // namespace scvae::cpu

// What surrounds the iteration in sparse_code: the filter before it and the dictionary after it.
#pragma once

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
struct Bottleneck {
  Bottleneck(const SparseCodeProblem<T>& p, int threads)
      : features(p.features),
        x(p.x),
        filter(Packed<T>::transposed(p.W_e, p.lista.atoms, p.features, threads)),
        dictionary(Packed<T>::transposed(p.D, p.features, p.lista.atoms, threads)) {}

  // b = x W_e^T of so many rows, into the rows of b from `first` on
  void drive(std::int64_t begin, std::int64_t rows, Matrix<T>& b, std::int64_t first, Supports& supports) const {
    multiply_rows({x[begin], x.stride}, filter, rows, b, first, supports);
  }

  // x_hat = z D^T
  void reconstruct(Rows<T> z, std::int64_t rows, Matrix<T>& x_hat, Supports& supports) const {
    multiply_rows(z, dictionary, rows, x_hat, 0, supports);
  }

  std::int64_t features;
  Rows<T> x;
  Packed<T> filter;
  Packed<T> dictionary;
};

}  // namespace scvae::cpu

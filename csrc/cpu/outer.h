// Sums over rows, left^T right: the gradients of all parameter matrices.
#pragma once

#include <vector>

#include "cpu/product.h"

namespace scvae::cpu {

template <typename T>
class OuterSum {
 public:
  // A zero matrix (left, right). If it is not wanted it takes no memory.
  OuterSum(std::int64_t left, std::int64_t right, bool wanted);

  // += left^T right over a number of rows, skipping zeros of `left`.
  // The terms of an element are added in the same order for any number of threads.
  void add(Rows<T> left, Rows<T> right, std::int64_t rows, Zeros zeros, int threads);

  Matrix<T>& sum() { return sum_; }
  void write(T* out) const;             // (left, right)
  void write_transposed(T* out) const;  // (right, left)

 private:
  void add_packed(Rows<T> left, Zeros zeros, int threads);

  struct Worker {
    explicit Worker(std::int64_t columns) : coefficients(columns, kDepth), supports(columns) {}
    Matrix<T> coefficients;
    Supports supports;
  };

  std::int64_t left_;
  Matrix<T> sum_;
  Packed<T> packed_;  // some rows of right
  std::vector<Worker> workers_;
};

}  // namespace scvae::cpu

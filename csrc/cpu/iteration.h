// What the forward and the backward pass of lista share: the start, and a step.
#pragma once

#include <cstdint>

#include "cpu/product.h"

namespace scvae::cpu {

template <typename T>
class Iteration {
 public:
  Iteration(const ListaProblem<T>& problem, int threads)
      : p_(problem),
        S_transposed_(Packed<T>::transposed(problem.S, problem.atoms, problem.atoms, threads)),
        theta_(padded<T>(problem.atoms)) {
    theta_.zero();
    bool negative = false;
    for (std::int64_t k = 0; k < p_.atoms; ++k) {
      theta_.data()[k] = p_.theta[p_.theta_per_atom ? k : 0];
      negative |= !(theta_.data()[k] >= T(0));
    }
    finish_ = negative ? Finish::threshold_any : Finish::threshold;
  }

  Zeros zeros() const { return S_transposed_.finite() ? Zeros::skip : Zeros::keep; }

  // z = z_0 of a row whose padded drive is b
  void start(std::int64_t row, const T* b, Matrix<T>& z, std::int64_t r) const {
    if (p_.z0.data != nullptr)
      z.set_row(r, p_.z0[row]);
    else
      kernels<T>().start(b, p_.gain, theta_.data(), padded<T>(p_.atoms), z.row(r));
  }

  // next = h(b + S z) for so many rows, all of them padded
  void step(Rows<T> b, Rows<T> z, T* next, std::int64_t next_stride, std::int64_t rows, Supports& supports) const {
    Product<T> product;
    product.factor = S_transposed_.factor();
    product.coefficients = z;
    product.rows = rows;
    product.zeros = zeros();
    product.finish = finish_;
    product.init = b;
    product.out = next;
    product.out_stride = next_stride;
    product.theta = theta_.data();
    multiply(product, supports);
  }

 private:
  const ListaProblem<T>& p_;
  Packed<T> S_transposed_;
  Buffer<T> theta_;
  Finish finish_;
};

}  // namespace scvae::cpu

// What the forward and the backward pass of lista share: the start, and a step.
#pragma once

#include <cstdint>
#include <optional>

#include "cpu/blocks.h"
#include "cpu/product.h"

namespace scvae::cpu {

// Whether a block of rows checks for interrupts before iteration t.
inline bool is_time_to_look(std::int64_t t) { return t % 64 == 63; }

template <typename T>
class Iteration {
 public:
  Iteration(const ListaProblem<T>& problem, int threads)
      : p_(problem), threads_(threads), theta_(padded<T>(problem.atoms)) {
    theta_.zero();
    bool negative = false;
    for (std::int64_t k = 0; k < p_.atoms; ++k) {
      theta_.data()[k] = p_.theta[p_.theta_per_atom ? k : 0];
      negative |= !(theta_.data()[k] >= T(0));
    }
    finish_ = negative ? Finish::threshold_any : Finish::threshold;
    if (p_.rows > kFewRows && p_.n_iter > 0) pack();
  }

  // z = z_0 of a row whose padded drive is b
  void start(std::int64_t row, const T* b, Matrix<T>& z, std::int64_t r) const {
    if (p_.z0.data != nullptr)
      z.set_row(r, p_.z0[row]);
    else
      kernels<T>().start(b, p_.gain, theta_.data(), padded<T>(p_.atoms), z.row(r));
  }

  // next = h(b + S z) for so many rows, all of them padded
  void step(Rows<T> b, Rows<T> z, T* next, std::int64_t next_stride, std::int64_t rows, Supports& supports) {
    if (!decided_) decide(z, rows);
    Product<T> product;
    product.rows = rows;
    product.finish = finish_;
    product.init = b;
    product.out = next;
    product.out_stride = next_stride;
    product.theta = theta_.data();
    if (S_transposed_.has_value()) {
      product.factor = S_transposed_->factor();
      product.coefficients = z;
      product.zeros = S_transposed_->finite() ? Zeros::skip : Zeros::keep;
    } else {
      multiply_by_dots<T>({p_.S, p_.atoms, p_.atoms}, z, b, rows, next, next_stride, threads_);
      product.factor.columns = p_.atoms;
      product.init = {next, next_stride};
    }
    multiply(product, supports);
  }

 private:
  void pack() {
    S_transposed_.emplace(Packed<T>::transposed(p_.S, p_.atoms, p_.atoms, threads_));
    decided_ = true;
  }

  // So few rows are one block: nothing else runs while the first step decides.
  // Packing S costs about as much as reading it four times. A few dense rows read it less often as it is: once an
  // iteration for each of them. How dense they are is taken from the codes they start with.
  void decide(Rows<T> z, std::int64_t rows) {
    constexpr double packing = 4;
    std::int64_t live = 0;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t k = 0; k < p_.atoms; ++k) live += z[r][k] != T(0);
    const auto n_iter = static_cast<double>(p_.n_iter);
    const double sparse = n_iter * static_cast<double>(live) / static_cast<double>(p_.atoms);
    decided_ = true;
    if (sparse + packing < n_iter * static_cast<double>(rows)) pack();
  }

  const ListaProblem<T>& p_;
  int threads_;
  Buffer<T> theta_;
  Finish finish_ = Finish::threshold;
  bool decided_ = false;
  std::optional<Packed<T>> S_transposed_;  // none where dots are faster
};

}  // namespace scvae::cpu

// The common parts of the forward and backward pass of lista: the start, and a step.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/blocks.h"
#include "cpu/product.h"

namespace scvae::cpu {

// Whether a block of rows checks for interrupts before iteration t.
inline bool is_time_to_look(std::int64_t t) { return t % 64 == 63; }

// Number of matrices: one if all iterations share it, otherwise one per iteration.
inline std::int64_t how_many(std::int64_t each, std::int64_t iterations) { return each != 0 ? iterations : 1; }

// Index of the matrix of iteration i.
template <typename V>
auto& of_iteration(V& values, std::int64_t i) {
  return values[values.size() == 1 ? 0 : static_cast<std::size_t>(i)];
}

// S of each iteration, or the shared one, packed: transposed for a step, straight for a step back.
template <typename T>
std::vector<Packed<T>> packed_inhibition(const ListaProblem<T>& p, bool transposed, int threads) {
  std::vector<Packed<T>> all;
  if (p.n_iter == 0 || p.factored) return all;
  for (std::int64_t i = 0; i < how_many(p.S_each, p.n_iter); ++i) {
    const Rows<T> S{p.S.data + i * p.S_each, p.S.stride};
    all.push_back(transposed ? Packed<T>::transposed(S, p.atoms, p.atoms, threads)
                             : Packed<T>::straight(S, p.atoms, p.atoms, threads));
    if (p.negated) all.back().negate();
  }
  return all;
}

// The padded thresholds, and the finish that applies them.
template <typename T>
class Thresholds {
 public:
  explicit Thresholds(const ListaProblem<T>& p)
      : positive_(p.positive), values_(how_many(p.theta_each, p.row(p.n_iter)), p.atoms) {
    values_.zero();
    const std::int64_t count = how_many(p.theta_each, p.row(p.n_iter));
    for (std::int64_t i = 0; i < count; ++i) {
      const T* theta = p.theta + i * p.theta_each;
      bool negative = false;
      for (std::int64_t k = 0; k < p.atoms; ++k) {
        values_.row(i)[k] = theta[p.theta_per_atom ? k : 0];
        negative |= !(values_.row(i)[k] >= T(0));
      }
      rows_.push_back({values_.row(i), p.kappa || p.positive ? Finish::general
                                       : negative            ? Finish::threshold_any
                                                             : Finish::threshold});
    }
  }

  const T* of(std::int64_t row) const { return of_iteration(rows_, row).theta; }

  // How the sums of a product are finished in iteration t.
  void finish(const ListaProblem<T>& p, std::int64_t t, Rows<T> y, Product<T>& product) const {
    const auto& row = of_iteration(rows_, p.row(t));
    product.finish = row.finish;
    product.theta = row.theta;
    product.positive = positive_;
    if (!p.kappa) return;
    product.prior = y;
    if (p.step != nullptr) product.scale = p.step + t * p.step_each;
  }

 private:
  struct Row {
    const T* theta;
    Finish finish;
  };

  bool positive_;
  Matrix<T> values_;
  std::vector<Row> rows_;
};

template <typename T>
class Iteration {
 public:
  Iteration(const ListaProblem<T>& problem, int threads) : p_(problem), threads_(threads), thresholds_(problem) {
    if (p_.rows > kFewRows || p_.negated) pack();
  }

  const Thresholds<T>& thresholds() const { return thresholds_; }

  // z = z_0 of a row with padded drive b
  void start(std::int64_t row, const T* b, Matrix<T>& z, std::int64_t r) const {
    if (p_.z0.data != nullptr)
      z.set_row(r, p_.z0[row]);
    else if (p_.kappa)
      z.zero_row(r);
    else
      kernels<T>().start(b, p_.gain, thresholds_.of(0), p_.positive, padded<T>(p_.atoms), z.row(r));
  }

  // y_t of a row, padded like z_t and z_{t-1}; if it equals z_t, nothing is written and z is returned.
  const T* extrapolated(std::int64_t t, const T* z, const T* before, T* y) const {
    if (t == 0 || p_.momentum == nullptr) return z;
    kernels<T>().extrapolate(z, before, p_.momentum[t * p_.momentum_each], in_vectors<T>(p_.atoms), y);
    return y;
  }

  // next = z_{t+1} for a number of rows of y_t, all of them padded
  void step(std::int64_t t, Rows<T> b, Rows<T> y, T* next, std::int64_t next_stride, std::int64_t rows,
            Supports& supports) {
    Product<T> product = sums(t, b, y, next, next_stride, rows);
    thresholds_.finish(p_, t, y, product);
    multiply(product, supports);
  }

  // out = v_t
  void direction(std::int64_t t, Rows<T> b, Rows<T> y, T* out, std::int64_t out_stride, std::int64_t rows,
                 Supports& supports) {
    multiply(sums(t, b, y, out, out_stride, rows), supports);
  }

 private:
  void pack() {
    transposed_ = packed_inhibition(p_, true, threads_);
    decided_ = true;
  }

  // out = b + S_t y, in preparation for a product that finishes it.
  Product<T> sums(std::int64_t t, Rows<T> b, Rows<T> y, T* out, std::int64_t out_stride, std::int64_t rows) {
    if (!decided_) decide(y, rows);
    Product<T> product;
    if (!transposed_.empty()) {
      product = product_of(y, of_iteration(transposed_, t), rows);
      product.init = b;
    } else {
      const Rows<T> S{p_.S.data + t * p_.S_each, p_.S.stride};
      multiply_by_dots<T>({S, p_.atoms, p_.atoms}, y, b, rows, out, out_stride, threads_);
      product.factor.columns = p_.atoms;
      product.rows = rows;
      product.init = {out, out_stride};
    }
    product.out = out;
    product.out_stride = out_stride;
    return product;
  }

  // This few rows are one block: nothing else runs while the first step decides.
  // Packing S costs about as much as reading it four times. A few dense rows read an unpacked S less often than that:
  // once per row and iteration. Their density is estimated from the initial codes. An S that only one iteration reads
  // is not packed.
  void decide(Rows<T> z, std::int64_t rows) {
    constexpr double packing = 4;
    decided_ = true;
    if (p_.S_each != 0) return;
    std::int64_t live = 0;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t k = 0; k < p_.atoms; ++k) live += z[r][k] != T(0);
    const auto n_iter = static_cast<double>(p_.n_iter);
    const double sparse = n_iter * static_cast<double>(live) / static_cast<double>(p_.atoms);
    if (sparse + packing < n_iter * static_cast<double>(rows)) pack();
  }

  const ListaProblem<T>& p_;
  int threads_;
  Thresholds<T> thresholds_;
  bool decided_ = false;
  std::vector<Packed<T>> transposed_;  // empty if dots are faster
};

}  // namespace scvae::cpu

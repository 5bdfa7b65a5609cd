// The gradients of the matrices S, W_e and D of lista and sparse_code: sums over all rows, to which every chunk adds
// its share once the adjoints of its rows are known.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/backward_parts.h"
#include "cpu/iterates.h"
#include "cpu/outer.h"
#include "lista.h"

namespace scvae::cpu {

template <typename T>
class MatrixGradients {
 public:
  // `ends`, with the sums of W_e and D, is null for lista.
  MatrixGradients(const ListaProblem<T>& problem, Ends<T>* ends, T* d_S, int threads)
      : p_(problem),
        ends_(ends),
        out_S_(d_S),
        threads_(threads),
        d_S_(sums<T>(how_many(problem.S_each, problem.n_iter), problem.atoms, problem.atoms, has_S())) {}

  bool has_S() const { return out_S_ != nullptr && p_.n_iter > 0; }
  Matrix<T>& shared_S() { return d_S_[0].sum(); }

  // Adds the share of a chunk of `size` rows to S, for the first `dense` iterations. `adjoints` has the same layout as
  // the codes in the iterates.
  void add_S(std::int64_t size, std::int64_t dense, const Iterates<T>& iterates, const Matrix<T>& adjoints) {
    const std::int64_t chunk = iterates.at(1, 0);
    const Zeros skip = iterates.are_finite(0, size) ? Zeros::skip : Zeros::keep;
    if (size == chunk && p_.S_each == 0 && p_.momentum == nullptr)
      return d_S_[0].add(adjoints.rows(chunk), iterates.codes().rows(), dense * chunk, skip, threads_);
    for (std::int64_t t = 0; t < dense; ++t)
      of_iteration(d_S_, t).add(adjoints.rows(iterates.at(t + 1, 0)), iterates.y(t, 0), size, skip, threads_);
  }

  // Adds the share of the chunk that starts at `begin` to W_e and D; d_b is the gradient of b from its iterations.
  void add_ends(std::int64_t begin, std::int64_t size, const Iterates<T>& iterates, const Matrix<T>& adjoints,
                const Matrix<T>& d_b) {
    if (ends_ == nullptr) return;
    if (ends_->out.W_e != nullptr) add_filters(begin, size, iterates, adjoints, d_b);
    if (ends_->out.D == nullptr) return;
    const std::int64_t features = ends_->bottleneck.features();
    if (ends_->grad.data != nullptr) {
      const Rows<T> grad{ends_->grad[begin], ends_->grad.stride};
      ends_->d_D.add(iterates.last(begin), grad, size, zeros(grad, size, features), threads_);
    }
    if (!iterates.factored()) return;
    for (std::int64_t t = 0; t < p_.n_iter; ++t) {
      const Rows<T> errors = ends_->errors.rows(iterates.at(t, 0));
      ends_->d_D.add(iterates.y(t, 0), errors, size, zeros(errors, size, features), threads_);
    }
  }

  void write() const {
    if (has_S()) {
      const std::int64_t elements = p_.atoms * p_.atoms;
      cpu::write(d_S_, elements, out_S_);
      if (p_.negated)
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(d_S_.size()) * elements; ++i) out_S_[i] = -out_S_[i];
    } else if (out_S_ != nullptr && p_.S_each == 0) {
      std::fill(out_S_, out_S_ + p_.atoms * p_.atoms, T(0));
    }
    if (ends_ != nullptr && ends_->out.W_e != nullptr)
      cpu::write(ends_->d_W_e, p_.atoms * ends_->bottleneck.features(), ends_->out.W_e);
    if (ends_ != nullptr && ends_->out.D != nullptr) ends_->d_D.write_transposed(ends_->out.D);
  }

 private:
  // Whether zeros that are multiplied by the chunk's rows `right` may be skipped.
  static Zeros zeros(Rows<T> right, std::int64_t rows, std::int64_t columns) {
    return all_finite(right, rows, columns) ? Zeros::skip : Zeros::keep;
  }

  void add_filters(std::int64_t begin, std::int64_t size, const Iterates<T>& iterates, const Matrix<T>& adjoints,
                   const Matrix<T>& d_b) {
    const std::int64_t features = ends_->bottleneck.features();
    const auto of_next = [&](std::int64_t t) { return adjoints.rows(iterates.at(t + 1, 0)); };
    if (iterates.factored()) {
      for (std::int64_t t = 0; t < p_.n_iter; ++t) {
        const Rows<T> residuals = ends_->residuals.rows(iterates.at(t, 0));
        of_iteration(ends_->d_W_e, t).add(of_next(t), residuals, size, zeros(residuals, size, features), threads_);
      }
      return;
    }
    const Rows<T> x{ends_->bottleneck.x()[begin], ends_->bottleneck.x().stride};
    const Zeros skip = zeros(x, size, features);
    if (!iterates.has_drive_for_each()) return ends_->d_W_e[0].add(d_b.rows(), x, size, skip, threads_);
    if (!p_.kappa && p_.z0.data == nullptr) ends_->d_W_e[0].add(adjoints.rows(), x, size, skip, threads_);
    for (std::int64_t t = 0; t < p_.n_iter; ++t)
      of_iteration(ends_->d_W_e, p_.row(t)).add(of_next(t), x, size, skip, threads_);
  }

  const ListaProblem<T>& p_;
  Ends<T>* ends_;
  T* out_S_;
  int threads_;
  std::vector<OuterSum<T>> d_S_;
};

}  // namespace scvae::cpu

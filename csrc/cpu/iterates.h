// The values of the forward pass that the backward pass of lista and sparse_code needs, for a chunk of rows: the codes
// z_t, recomputed unless they were kept; their extrapolations; the drive; the residuals of the factored form.
#pragma once

#include <cstdint>

#include "cpu/backward_parts.h"
#include "cpu/iteration.h"
#include "cpu/parallel.h"
#include "lista.h"

namespace scvae::cpu {

// Rows of the problem: those of the chunk that starts at `begin`, from `first` on.
struct Part {
  std::int64_t begin;
  std::int64_t first;
  std::int64_t count;
  std::int64_t end() const { return first + count; }
};

template <typename T>
class Iterates {
 public:
  // `ends` is null for lista; residuals are written to `residuals`.
  Iterates(const ListaProblem<T>& problem, Ends<T>* ends, Codes<const T> given, std::int64_t chunk, int threads)
      : p_(problem),
        ends_(ends),
        last_{given.z, problem.atoms},
        kept_(given.iterates),
        iteration_(problem, threads),
        chunk_(chunk),
        codes_((problem.n_iter + 1) * chunk, problem.atoms),
        y_(problem.momentum != nullptr ? problem.n_iter * chunk : 0, problem.atoms),
        drive_(chunk, problem.atoms) {}

  bool factored() const { return ends_ != nullptr && ends_->bottleneck.factored(); }
  bool has_drive_for_each() const { return ends_ != nullptr && ends_->bottleneck.has_drive_for_each(); }

  // Position of z_t of the chunk's row r among the codes.
  std::int64_t at(std::int64_t t, std::int64_t r) const { return t * chunk_ + r; }
  Matrix<T>& codes() { return codes_; }
  const Matrix<T>& codes() const { return codes_; }
  const T* row(std::int64_t t, std::int64_t r) const { return codes_.row(at(t, r)); }
  // z_T of the problem's rows
  Rows<T> last(std::int64_t row) const { return {last_[row], last_.stride}; }

  // y_t of the chunk's rows from r on
  Rows<T> y(std::int64_t t, std::int64_t r) const {
    return p_.momentum != nullptr && t > 0 ? y_.rows(at(t, r)) : codes_.rows(at(t, r));
  }

  // b of the chunk's rows, for the row of W_e that was requested last
  const Matrix<T>& drive() const { return drive_; }

  // The codes for t = 0 ... T, their extrapolations, and the residuals of the factored form.
  void restore(const Part& part, Supports& supports, const Turn& turn) {
    if (!factored() && p_.row(p_.n_iter) > 0) drive(0, part, supports);
    for (std::int64_t r = part.first; r < part.end(); ++r) {
      if (p_.n_iter > 0) iteration_.start(part.begin + r, drive_.row(r), codes_, r);
      codes_.set_row(at(p_.n_iter, r), last_[part.begin + r]);
    }
    for (std::int64_t t = 0; t < p_.n_iter; ++t) {
      if (is_time_to_look(t)) turn.look();
      if (t > 0 && p_.momentum != nullptr)
        for (std::int64_t r = part.first; r < part.end(); ++r)
          iteration_.extrapolated(t, codes_.row(at(t, r)), codes_.row(at(t - 1, r)), y_.row(at(t, r)));
      if (factored())
        ends_->bottleneck.residual(part.begin + part.first, y(t, part.first), part.count, ends_->residuals,
                                   at(t, part.first), supports);
      if (t + 1 == p_.n_iter) break;
      if (kept_ == nullptr)
        step(t, part, supports);
      else
        recall(t, part);
    }
  }

  // The drive for that row of W_e.
  void drive(std::int64_t row, const Part& part, Supports& supports) {
    if (ends_ != nullptr)
      ends_->bottleneck.drive(row, part.begin + part.first, part.count, drive_, part.first, supports);
    else
      for (std::int64_t r = part.first; r < part.end(); ++r) drive_.set_row(r, p_.b[part.begin + r]);
  }

  // out = v_t, recomputed
  void direction(std::int64_t t, const Part& part, Matrix<T>& out, Supports& supports) {
    if (factored()) {
      Product<T> product = ends_->bottleneck.filtered(t, ends_->residuals.rows(at(t, part.first)), part.count);
      product.into(out, 0);
      multiply(product, supports);
    } else {
      if (has_drive_for_each()) drive(p_.row(t), part, supports);
      iteration_.direction(t, drive_.rows(part.first), y(t, part.first), out.row(0), out.stride(), part.count,
                           supports);
    }
  }

  // Whether z_T of the chunk's rows from r on is finite. Then so are the codes before it, because infinity and NaN
  // persist; except that among non-negative codes minus infinity becomes 0.
  bool are_finite(std::int64_t r, std::int64_t count) const {
    bool finite = true;
    for (std::int64_t t = p_.positive ? 0 : p_.n_iter; finite && t <= p_.n_iter; ++t)
      finite = all_finite(codes_.rows(at(t, r)), count, p_.atoms);
    return finite;
  }

 private:
  // z_{t+1}, which was kept
  void recall(std::int64_t t, const Part& part) {
    for (std::int64_t r = part.first; r < part.end(); ++r)
      codes_.set_row(at(t + 1, r), kept_ + ((part.begin + r) * (p_.n_iter - 1) + t) * p_.atoms);
  }

  void step(std::int64_t t, const Part& part, Supports& supports) {
    const std::int64_t next = at(t + 1, part.first);
    if (!factored()) {
      if (has_drive_for_each() && p_.row(t) > 0) drive(p_.row(t), part, supports);
      return iteration_.step(t, drive_.rows(part.first), y(t, part.first), codes_.row(next), codes_.stride(),
                             part.count, supports);
    }
    Product<T> product = ends_->bottleneck.filtered(t, ends_->residuals.rows(at(t, part.first)), part.count);
    iteration_.thresholds().finish(p_, t, y(t, part.first), product);
    product.into(codes_, next);
    multiply(product, supports);
  }

  const ListaProblem<T>& p_;
  Ends<T>* ends_;
  Rows<T> last_;
  const T* kept_;
  Iteration<T> iteration_;
  std::int64_t chunk_;
  Matrix<T> codes_;  // for t = 0 … T, (T + 1) chunks
  Matrix<T> y_;      // for t = 0 … T − 1, with momentum
  Matrix<T> drive_;
};

}  // namespace scvae::cpu

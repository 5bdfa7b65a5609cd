// Parts of the backward pass of lista and sparse_code besides the recurrence: chunks of rows, and sums.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "cpu/bottleneck.h"
#include "cpu/iteration.h"
#include "cpu/outer.h"

namespace scvae::cpu {

// Number of rows that go through all iterations together, and number of them per thread. They depend only on the
// shape, and so does the order of every sum.
struct Chunk {
  std::int64_t rows;
  std::int64_t block;
};

template <typename T>
Chunk chunk_of(const ListaProblem<T>& p, std::int64_t features_of_factored, bool has_filter_for_each) {
  constexpr std::int64_t most_rows = 768;
  // Matrices of each iteration are read from memory for every block, and their gradients for every chunk.
  const bool each = p.S_each != 0 || has_filter_for_each;
  const std::int64_t bytes = each ? 64 << 20 : 8 << 20;
  const std::int64_t block = each ? 96 : 24;  // smaller than forward, so that a chunk keeps many threads busy
  const std::int64_t atoms = 2 * (p.n_iter + 2) + (p.momentum != nullptr ? p.n_iter : 0);
  const std::int64_t row = atoms * padded<T>(p.atoms) + 2 * p.n_iter * padded<T>(features_of_factored);
  const std::int64_t fitting = bytes / (row * static_cast<std::int64_t>(sizeof(T))) / block * block;
  const std::int64_t rows = std::clamp<std::int64_t>(p.rows, 1, std::clamp<std::int64_t>(fitting, 96, most_rows));
  return {rows, std::min(block, rows)};
}

template <typename T>
Chunk chunk_of(const SparseCodeProblem<T>& p) {
  return chunk_of(p.lista, p.lista.factored ? p.features : 0, p.W_e_each != 0);
}

// Sums of outer products, for each iteration or for all.
template <typename T>
std::vector<OuterSum<T>> sums(std::int64_t count, std::int64_t left, std::int64_t right, bool wanted) {
  std::vector<OuterSum<T>> all;
  for (std::int64_t i = 0; i < count; ++i) all.emplace_back(left, right, wanted);
  return all;
}

template <typename T>
void write(const std::vector<OuterSum<T>>& sums, std::int64_t each, T* out) {
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i].write(out + static_cast<std::int64_t>(i) * each);
}

// Parts of the backward pass of sparse_code beyond that of lista.
template <typename T>
struct Ends {
  Ends(const SparseCodeProblem<T>& p, Rows<T> grad_x_hat, const SparseCodeGradients<T>& out, std::int64_t chunk,
       int threads)
      : bottleneck(p, false, threads),
        dictionary(Packed<T>::straight(p.D, grad_x_hat.data != nullptr || bottleneck.factored() ? p.features : 0,
                                       p.lista.atoms, threads)),
        grad(grad_x_hat),
        d_x(out.x != nullptr ? chunk : 0, p.features),
        d_W_e(sums<T>(bottleneck.filters(), p.lista.atoms, p.features, out.W_e != nullptr)),
        d_D(p.lista.atoms, p.features, out.D != nullptr),
        residuals(bottleneck.factored() ? p.lista.n_iter * chunk : 0, p.features),
        errors(bottleneck.factored() ? p.lista.n_iter * chunk : 0, p.features),
        out(out) {
    if (out.x == nullptr && !bottleneck.factored()) return;
    for (std::int64_t i = 0; i < bottleneck.filters(); ++i)
      filter.push_back(Packed<T>::straight(bottleneck.filter(i), p.lista.atoms, p.features, threads));
  }

  Bottleneck<T> bottleneck;
  std::vector<Packed<T>> filter;  // W_e, if it is needed
  Packed<T> dictionary;           // D, if it is needed
  Rows<T> grad;                   // of x_hat; data may be null
  Matrix<T> d_x;
  std::vector<OuterSum<T>> d_W_e;
  OuterSum<T> d_D;
  Matrix<T> residuals;  // factored form: x - D y_t, one t after the other
  Matrix<T> errors;     // likewise, the negative of their gradients
  const SparseCodeGradients<T>& out;
};

// Contributions of rows to the gradients of theta, gain, step and momentum.
template <typename T>
struct Share {
  explicit Share(const ListaProblem<T>& p)
      : atoms(static_cast<std::size_t>(p.atoms)),
        d_theta(static_cast<std::size_t>(how_many(p.theta_each, p.row(p.n_iter))) * atoms),
        d_step(static_cast<std::size_t>(p.step != nullptr ? how_many(p.step_each, p.n_iter) : 0)),
        d_momentum(static_cast<std::size_t>(p.momentum != nullptr ? how_many(p.momentum_each, p.n_iter) : 0)) {}

  void zero() {
    for (std::vector<double>* sums : {&d_theta, &d_step, &d_momentum}) std::fill(sums->begin(), sums->end(), 0.0);
    d_gain = 0;
  }
  void add(const Share& other) {
    for (std::size_t k = 0; k < d_theta.size(); ++k) d_theta[k] += other.d_theta[k];
    for (std::size_t t = 0; t < d_step.size(); ++t) d_step[t] += other.d_step[t];
    for (std::size_t t = 0; t < d_momentum.size(); ++t) d_momentum[t] += other.d_momentum[t];
    d_gain += other.d_gain;
  }
  void write(const ListaProblem<T>& p, const ListaGradients<T>& out) const {
    if (out.gain != nullptr) *out.gain = static_cast<T>(d_gain);
    if (out.step != nullptr) narrow(d_step, out.step);
    if (out.momentum != nullptr) narrow(d_momentum, out.momentum);
    if (out.theta == nullptr) return;
    if (p.theta_per_atom) return narrow(d_theta, out.theta);
    for (std::size_t row = 0; row * atoms < d_theta.size(); ++row) {
      const double* sums = d_theta.data() + row * atoms;
      out.theta[row] = static_cast<T>(std::accumulate(sums, sums + atoms, 0.0));
    }
  }
  static void narrow(const std::vector<double>& sums, T* out) {
    std::transform(sums.begin(), sums.end(), out, [](double sum) { return static_cast<T>(sum); });
  }
  double* theta(std::int64_t row) {
    return d_theta.data() + (d_theta.size() == atoms ? 0 : static_cast<std::size_t>(row) * atoms);
  }

  std::size_t atoms;
  std::vector<double> d_theta;
  std::vector<double> d_step;
  std::vector<double> d_momentum;
  double d_gain = 0;
};

}  // namespace scvae::cpu

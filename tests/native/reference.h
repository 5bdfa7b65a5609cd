// The formulas as plain loops in double over every term, zeros included, which defines the effect of NaN and infinity.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "lista.h"

namespace scvae::test {

inline double signum(double u) { return static_cast<double>(u > 0) - static_cast<double>(u < 0); }

inline double shrink(double u, double theta) {
  const double excess = std::fabs(u) - theta;
  if (u == 0) return std::isnan(theta) ? theta : 0;  // for theta = -infinity too
  return signum(u) * (excess < 0 ? 0 : excess);
}

struct ListaReference {
  std::vector<double> z, d_b, d_S, d_theta, d_gain, d_z0;
};

// Row `row` of z_0 … z_T.
template <typename T>
std::vector<std::vector<double>> iterates(const ListaProblem<T>& p, std::int64_t row) {
  const std::int64_t K = p.atoms;
  std::vector<double> z(static_cast<std::size_t>(K));
  const auto theta = [&](std::int64_t k) { return static_cast<double>(p.theta[p.theta_per_atom ? k : 0]); };
  for (std::int64_t k = 0; k < K; ++k)
    z[k] = p.z0.data != nullptr ? p.z0[row][k] : shrink(static_cast<double>(p.gain) * p.b[row][k], theta(k));
  std::vector<std::vector<double>> codes{z};
  for (std::int64_t t = 0; t < p.n_iter; ++t) {
    const double* previous = codes.back().data();
    for (std::int64_t k = 0; k < K; ++k) {
      double u = p.b[row][k];
      for (std::int64_t j = 0; j < K; ++j) u += static_cast<double>(p.S[k][j]) * previous[j];
      z[k] = shrink(u, theta(k));
    }
    codes.push_back(z);
  }
  return codes;
}

// Adds the contribution of row `row` to the gradients.
template <typename T>
void differentiate(const ListaProblem<T>& p, std::int64_t row, const std::vector<std::vector<double>>& codes,
                   const T* grad, ListaReference& out) {
  const std::int64_t K = p.atoms;
  std::vector<double> g(grad, grad + K);
  const bool warm = p.z0.data != nullptr;
  for (std::int64_t t = p.n_iter; t >= (warm ? 1 : 0); --t) {
    for (std::int64_t k = 0; k < K; ++k) {
      if (codes[t][k] == 0) g[k] = 0;
      out.d_theta[p.theta_per_atom ? k : 0] -= signum(codes[t][k]) * g[k];
      out.d_b[row * K + k] += t == 0 ? static_cast<double>(p.gain) * g[k] : g[k];
      if (t == 0) out.d_gain[0] += static_cast<double>(p.b[row][k]) * g[k];
    }
    if (t == 0) return;
    std::vector<double> previous(static_cast<std::size_t>(K));
    for (std::int64_t k = 0; k < K; ++k) {
      const double* z = codes[t - 1].data();
      double* d_S = out.d_S.data() + k * K;
      for (std::int64_t j = 0; j < K; ++j) {
        d_S[j] += g[k] * z[j];
        previous[j] += g[k] * p.S[k][j];
      }
    }
    g = previous;
  }
  for (std::int64_t k = 0; k < K; ++k) out.d_z0[row * K + k] = g[k];
}

template <typename T>
ListaReference lista_reference(const ListaProblem<T>& p, Rows<T> grad) {
  const auto size = static_cast<std::size_t>(p.rows * p.atoms);
  ListaReference out;
  out.d_b.resize(size);
  out.d_z0.resize(size);
  out.d_S.resize(static_cast<std::size_t>(p.atoms * p.atoms));
  out.d_theta.resize(static_cast<std::size_t>(p.theta_per_atom ? p.atoms : 1));
  out.d_gain.resize(1);
  for (std::int64_t row = 0; row < p.rows; ++row) {
    const auto codes = iterates(p, row);
    out.z.insert(out.z.end(), codes.back().begin(), codes.back().end());
    differentiate(p, row, codes, grad[row], out);
  }
  return out;
}

struct DecodeReference {
  std::vector<double> x_hat, d_z, d_D;
};

template <typename T>
DecodeReference decode_reference(const DecodeProblem<T>& p, Rows<T> grad) {
  DecodeReference out;
  out.x_hat.resize(static_cast<std::size_t>(p.rows * p.features));
  out.d_z.resize(static_cast<std::size_t>(p.rows * p.atoms));
  out.d_D.resize(static_cast<std::size_t>(p.features * p.atoms));
  for (std::int64_t m = 0; m < p.rows; ++m)
    for (std::int64_t i = 0; i < p.features; ++i)
      for (std::int64_t k = 0; k < p.atoms; ++k) {
        const double g = grad[m][i];
        out.x_hat[m * p.features + i] += static_cast<double>(p.z[m][k]) * p.D[i][k];
        out.d_z[m * p.atoms + k] += g * p.D[i][k];
        out.d_D[i * p.atoms + k] += g * p.z[m][k];
      }
  return out;
}

}  // namespace scvae::test

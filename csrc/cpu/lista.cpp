// lista: rows are independent, so each is iterated on its own and a zero code costs nothing.
//
// The backward pass recomputes the codes of a chunk of rows, runs the adjoint recurrence over them, and then adds the
// chunk's share to the gradients of S and theta: what it needs besides its inputs is bounded by the chunk.
#include "lista.h"

#include <cmath>

#include "cpu/matrix.h"
#include "cpu/parallel.h"
#include "soft_threshold.h"

namespace scvae::cpu {
namespace {

constexpr std::int64_t kRowsPerTask = 8;
constexpr std::int64_t kChunkBytes = 8 << 20;
constexpr std::int64_t kMinChunk = 4;
constexpr std::int64_t kMaxChunk = 128;

template <typename T>
Zeros zeros_of(const ListaProblem<T>& p) {
  const bool finite = all_finite(p.S, p.atoms, p.atoms) && all_finite(p.b, p.rows, p.atoms) &&
                      (p.z0.data == nullptr || all_finite(p.z0, p.rows, p.atoms)) && std::isfinite(p.gain);
  return finite ? Zeros::skip : Zeros::keep;
}

// out = h(u)
template <typename T>
void threshold(const ListaProblem<T>& p, const T* u, T* out) {
  if (p.theta_per_atom) {
    for (std::int64_t k = 0; k < p.atoms; ++k) out[k] = soft_threshold(u[k], p.theta[k]);
  } else {
    const T theta = p.theta[0];
    for (std::int64_t k = 0; k < p.atoms; ++k) out[k] = soft_threshold(u[k], theta);
  }
}

// z = z_0
template <typename T>
void start(const ListaProblem<T>& p, std::int64_t row, T* u, T* z) {
  if (p.z0.data != nullptr) {
    std::copy(p.z0[row], p.z0[row] + p.atoms, z);
    return;
  }
  for (std::int64_t k = 0; k < p.atoms; ++k) u[k] = p.gain * p.b[row][k];
  threshold(p, u, z);
}

// next = h(b + S z); u is scratch.
template <typename T>
void iterate(const ListaProblem<T>& p, std::int64_t row, const Matrix<T>& S_transposed, Zeros zeros, const T* z,
             Terms<T>& terms, T* u, T* next) {
  gather(terms, z, p.atoms, zeros);
  std::copy(p.b[row], p.b[row] + p.atoms, u);
  std::fill(u + p.atoms, u + S_transposed.stride(), T(0));
  accumulate(u, S_transposed, terms);
  threshold(p, u, next);
}

// What one thread needs for itself.
template <typename T>
struct Worker {
  explicit Worker(std::int64_t atoms) : u(1, atoms), g(1, atoms) { terms.reserve(atoms); }
  Matrix<T> u;
  Matrix<T> g;
  Terms<T> terms;
};

template <typename T>
std::vector<Worker<T>> workers(int team, std::int64_t atoms) {
  std::vector<Worker<T>> out;
  out.reserve(static_cast<std::size_t>(team));
  for (int i = 0; i < team; ++i) out.emplace_back(atoms);
  return out;
}

template <typename T>
class Backward {
 public:
  Backward(const ListaProblem<T>& problem, Rows<T> z, Rows<T> grad, const ListaGradients<T>& out, int threads)
      : p_(problem),
        z_(z),
        grad_(grad),
        out_(out),
        zeros_(zeros_of(problem) == Zeros::skip && all_finite(z, problem.rows, problem.atoms) &&
                       all_finite(grad, problem.rows, problem.atoms)
                   ? Zeros::skip
                   : Zeros::keep),
        chunk_(chunk_rows(problem)),
        team_(team_size(threads, std::max(problem.rows, problem.atoms))),
        S_(packed(problem.S, problem.atoms, problem.atoms)),
        S_transposed_(packed_transpose(problem.S, problem.atoms, problem.atoms)),
        codes_((problem.n_iter + 1) * chunk_, problem.atoms),
        adjoints_((problem.n_iter + 1) * chunk_, problem.atoms),
        d_S_(out.S != nullptr ? problem.atoms : 0, problem.atoms),
        d_theta_(static_cast<std::size_t>(problem.atoms), 0.0),
        d_gain_rows_(static_cast<std::size_t>(chunk_), 0.0),
        workers_(workers<T>(team_, std::max(problem.atoms, (problem.n_iter + 1) * chunk_))) {}

  void run() {
    double d_gain = 0;
    for (std::int64_t begin = 0; begin < p_.rows; begin += chunk_) {
      const std::int64_t size = std::min(chunk_, p_.rows - begin);
      parallel_for(size, team_, [&](std::int64_t r, int thread) { row(begin, r, worker(thread)); });
      for (std::int64_t r = 0; r < size; ++r) d_gain += d_gain_rows_[static_cast<std::size_t>(r)];
      if (out_.S == nullptr && out_.theta == nullptr) continue;
      parallel_for(p_.atoms, team_, [&](std::int64_t atom, int thread) { parameters(atom, size, worker(thread)); });
    }
    write(d_gain);
  }

 private:
  // Depends on the shape alone: so does the order of every sum.
  static std::int64_t chunk_rows(const ListaProblem<T>& p) {
    const std::int64_t row_bytes = 2 * (p.n_iter + 1) * padded<T>(p.atoms) * static_cast<std::int64_t>(sizeof(T));
    return std::min(std::max<std::int64_t>(p.rows, 1), std::clamp(kChunkBytes / row_bytes, kMinChunk, kMaxChunk));
  }

  Worker<T>& worker(int thread) { return workers_[static_cast<std::size_t>(thread)]; }
  T* code(std::int64_t t, std::int64_t r) { return codes_.row(t * chunk_ + r); }
  T* adjoint(std::int64_t t, std::int64_t r) { return adjoints_.row(t * chunk_ + r); }

  // g becomes its part on the support of z_t, which is also kept as the adjoint of step t.
  void mask(std::int64_t t, std::int64_t r, T* g) {
    const T* z = code(t, r);
    T* kept = adjoint(t, r);
    for (std::int64_t k = 0; k < p_.atoms; ++k) kept[k] = g[k] = z[k] != T(0) ? g[k] : T(0);
  }

  void recompute(std::int64_t row, std::int64_t r, Worker<T>& own) {
    if (p_.n_iter > 0) start(p_, row, own.u.row(0), code(0, r));
    for (std::int64_t t = 0; t + 1 < p_.n_iter; ++t)
      iterate(p_, row, S_transposed_, zeros_, code(t, r), own.terms, own.u.row(0), code(t + 1, r));
    std::copy(z_[row], z_[row] + p_.atoms, code(p_.n_iter, r));
  }

  void row(std::int64_t begin, std::int64_t r, Worker<T>& own) {
    const std::int64_t m = begin + r;
    recompute(m, r, own);
    T* g = own.g.row(0);
    T* d_b = out_.b != nullptr ? out_.b + m * p_.atoms : nullptr;
    std::copy(grad_[m], grad_[m] + p_.atoms, g);
    if (d_b != nullptr) std::fill(d_b, d_b + p_.atoms, T(0));
    for (std::int64_t t = p_.n_iter; t > 0; --t) {
      mask(t, r, g);
      if (d_b != nullptr)
        for (std::int64_t k = 0; k < p_.atoms; ++k) d_b[k] += g[k];
      gather(own.terms, g, p_.atoms, zeros_);
      std::fill(g, g + own.g.stride(), T(0));
      accumulate(g, S_, own.terms);
    }
    finish(m, r, g, d_b);
  }

  // The share of z_0.
  void finish(std::int64_t m, std::int64_t r, T* g, T* d_b) {
    if (p_.z0.data != nullptr) {
      if (out_.z0 != nullptr) std::copy(g, g + p_.atoms, out_.z0 + m * p_.atoms);
      return;
    }
    mask(0, r, g);
    double d_gain = 0;
    for (std::int64_t k = 0; k < p_.atoms; ++k) d_gain += static_cast<double>(p_.b[m][k]) * g[k];
    d_gain_rows_[static_cast<std::size_t>(r)] = d_gain;
    if (d_b != nullptr)
      for (std::int64_t k = 0; k < p_.atoms; ++k) d_b[k] += p_.gain * g[k];
  }

  // Row `atom` of the gradient of S, and the gradient of its threshold.
  void parameters(std::int64_t atom, std::int64_t size, Worker<T>& own) {
    double d_theta = 0;
    own.terms.clear();
    for (std::int64_t t = p_.z0.data != nullptr ? 1 : 0; t <= p_.n_iter; ++t)
      for (std::int64_t r = 0; r < size; ++r) {
        const T g = adjoint(t, r)[atom];
        if (g == T(0) && zeros_ == Zeros::skip) continue;
        d_theta -= static_cast<double>(sign(code(t, r)[atom])) * g;
        if (t > 0) own.terms.push((t - 1) * chunk_ + r, g);
      }
    d_theta_[static_cast<std::size_t>(atom)] += d_theta;
    if (out_.S != nullptr) accumulate(d_S_.row(atom), codes_, own.terms);
  }

  void write(double d_gain) {
    if (out_.gain != nullptr) *out_.gain = static_cast<T>(d_gain);
    if (out_.S != nullptr)
      for (std::int64_t k = 0; k < p_.atoms; ++k) d_S_.get_row(k, out_.S + k * p_.atoms);
    if (out_.theta == nullptr) return;
    double sum = 0;
    for (std::int64_t k = 0; k < p_.atoms; ++k) {
      sum += d_theta_[static_cast<std::size_t>(k)];
      if (p_.theta_per_atom) out_.theta[k] = static_cast<T>(d_theta_[static_cast<std::size_t>(k)]);
    }
    if (!p_.theta_per_atom) *out_.theta = static_cast<T>(sum);
  }

  const ListaProblem<T>& p_;
  Rows<T> z_;
  Rows<T> grad_;
  const ListaGradients<T>& out_;
  Zeros zeros_;
  std::int64_t chunk_;
  int team_;
  Matrix<T> S_;
  Matrix<T> S_transposed_;
  Matrix<T> codes_;
  Matrix<T> adjoints_;
  Matrix<T> d_S_;
  std::vector<double> d_theta_;
  std::vector<double> d_gain_rows_;
  std::vector<Worker<T>> workers_;
};

}  // namespace

template <typename T>
void lista_forward(const ListaProblem<T>& p, T* z, int threads) {
  const std::int64_t tasks = (p.rows + kRowsPerTask - 1) / kRowsPerTask;
  const int team = team_size(threads, tasks);
  const Zeros zeros = zeros_of(p);
  const Matrix<T> S_transposed = packed_transpose(p.S, p.atoms, p.atoms);
  auto scratch = workers<T>(team, p.atoms);
  parallel_for(tasks, team, [&](std::int64_t task, int thread) {
    Worker<T>& own = scratch[static_cast<std::size_t>(thread)];
    const std::int64_t end = std::min(p.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t m = task * kRowsPerTask; m < end; ++m) {
      T* code = z + m * p.atoms;
      start(p, m, own.u.row(0), code);
      for (std::int64_t t = 0; t < p.n_iter; ++t)
        iterate(p, m, S_transposed, zeros, code, own.terms, own.u.row(0), code);
    }
  });
}

template <typename T>
void lista_backward(const ListaProblem<T>& p, Rows<T> z, Rows<T> grad, const ListaGradients<T>& out, int threads) {
  Backward<T>(p, z, grad, out, threads).run();
}

template void lista_forward(const ListaProblem<float>&, float*, int);
template void lista_forward(const ListaProblem<double>&, double*, int);
template void lista_backward(const ListaProblem<float>&, Rows<float>, Rows<float>, const ListaGradients<float>&, int);
template void lista_backward(const ListaProblem<double>&, Rows<double>, Rows<double>, const ListaGradients<double>&,
                             int);

}  // namespace scvae::cpu

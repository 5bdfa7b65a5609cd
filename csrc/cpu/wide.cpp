#include "cpu/wide.h"

#include <algorithm>
#include <cstdint>

#include "cpu/slabs.h"

namespace scvae::cpu {
namespace {

// Smaller problems also run backward slab by slab if that is faster: for these rows, atoms and densities.
constexpr std::int64_t kLeastRows = 128;
constexpr std::int64_t kLeastAtoms = 1024;
constexpr double kSparse = 0.05;

constexpr std::int64_t kMostRows = 2048;  // per chunk

template <typename T>
bool takes(const SparseCodeProblem<T>& p) {
  const ListaProblem<T>& l = p.lista;
  if (!l.factored || l.n_iter == 0 || l.momentum != nullptr || l.z0.data != nullptr) return false;
  const Kernels<T>& k = kernels<T>();
  const std::int64_t size = l.atoms * p.features;
  return k.all_finite(p.W_e.data, how_many(p.W_e_each, l.n_iter) * size) && k.all_finite(p.D.data, size) &&
         k.all_finite(p.x.data, l.rows * p.features);
}

}  // namespace

template <typename T>
bool is_wide(const SparseCodeProblem<T>& p) {
  return is_large(p) && takes(p);
}

template <typename T>
bool is_wide_backward(const SparseCodeProblem<T>& p, const T* z) {
  const bool pays = p.lista.rows >= kLeastRows && p.lista.atoms >= kLeastAtoms;
  return (is_large(p) ||
          (p.lista.factored && pays && density<T>({z, p.lista.atoms}, p.lista.rows, p.lista.atoms) <= kSparse)) &&
         takes(p);
}

template <typename T>
void wide_forward(const SparseCodeProblem<T>& p, Codes<T> codes, T* x_hat, int threads) {
  const std::int64_t T_ = p.lista.n_iter, atoms = p.lista.atoms, chunk = std::min(p.lista.rows, kMostRows);
  Slabs<T> slabs(p, 0, threads);
  Matrix<T> residuals(chunk, p.features), sum(chunk, p.features);
  for (std::int64_t begin = 0; begin < p.lista.rows; begin += chunk) {
    const std::int64_t rows = std::min(chunk, p.lista.rows - begin);
    T* z = codes.z + begin * atoms;
    sum.zero();
    for (std::int64_t t = 0; t < T_; ++t) {
      slabs.residual(begin, rows, sum, residuals, 0);
      slabs.for_each([&](std::int64_t slab, SlabWorker<T>& own) {
        const std::int64_t first_atom = slabs.first(slab), width = slabs.width(slab);
        const auto load = [&](std::int64_t first, std::int64_t count) {
          for (std::int64_t r = 0; r < count; ++r) {
            own.coefficients.zero_row(r);
            const T* source = z + (first + r) * atoms + first_atom;
            if (t > 0) std::copy(source, source + width, own.coefficients.row(r));
          }
        };
        const auto store = [&](std::int64_t first, std::int64_t count) {
          for (std::int64_t r = 0; r < count; ++r) {
            const T* source = own.codes.row(r);
            std::copy(source, source + width, z + (first + r) * atoms + first_atom);
            if (codes.iterates == nullptr || t + 1 == T_) continue;
            T* iterate = codes.iterates + ((begin + first + r) * (T_ - 1) + t) * atoms;
            std::copy(source, source + width, iterate + first_atom);
          }
        };
        slabs.step(t, slab, residuals.rows(), rows, own, load, store);
      });
      const auto coefficients = [&](std::int64_t slab, std::int64_t first, std::int64_t, SlabWorker<T>&) {
        return Rows<T>{z + first * atoms + slabs.first(slab), atoms};
      };
      slabs.decode(rows, coefficients, sum);
    }
    for (std::int64_t r = 0; r < rows; ++r) sum.get_row(r, x_hat + (begin + r) * p.features);
  }
}

template bool is_wide(const SparseCodeProblem<float>&);
template bool is_wide(const SparseCodeProblem<double>&);
template bool is_wide_backward(const SparseCodeProblem<float>&, const float*);
template bool is_wide_backward(const SparseCodeProblem<double>&, const double*);
template void wide_forward(const SparseCodeProblem<float>&, Codes<float>, float*, int);
template void wide_forward(const SparseCodeProblem<double>&, Codes<double>, double*, int);

}  // namespace scvae::cpu

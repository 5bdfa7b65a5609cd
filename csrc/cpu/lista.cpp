// lista and sparse_code, forward: a block of rows goes through all iterations while its codes stay in the cache.
#include "lista.h"

#include "cpu/bottleneck.h"
#include "cpu/iteration.h"
#include "cpu/parallel.h"

namespace scvae::cpu {
namespace {

// What one thread needs for itself.
template <typename T>
struct Worker {
  Worker(std::int64_t rows, std::int64_t atoms, std::int64_t features)
      : b(rows, atoms), z(rows, atoms), next(rows, atoms), x_hat(rows, features), supports(rows) {}
  Matrix<T> b;
  Matrix<T> z;
  Matrix<T> next;
  Matrix<T> x_hat;
  Supports supports;
};

template <typename T>
void forward(const ListaProblem<T>& p, const Bottleneck<T>* bottleneck, T* z, T* x_hat, int threads) {
  const Blocks blocks(p.rows, kRowsPerBlock, threads);
  const int team = team_size(threads, blocks.count);
  Iteration<T> iteration(p, threads);
  std::vector<Worker<T>> workers;
  for (int i = 0; i < team; ++i)
    workers.emplace_back(blocks.size, p.atoms, bottleneck != nullptr ? bottleneck->features() : 0);
  parallel_for(blocks.count, team, [&](std::int64_t block, int thread, const Turn& turn) {
    Worker<T>& own = workers[static_cast<std::size_t>(thread)];
    const std::int64_t begin = block * blocks.size, rows = std::min(blocks.size, p.rows - begin);
    if (bottleneck != nullptr) bottleneck->drive(begin, rows, own.b, 0, own.supports);
    for (std::int64_t r = 0; r < rows; ++r) {
      if (bottleneck == nullptr) own.b.set_row(r, p.b[begin + r]);
      iteration.start(begin + r, own.b.row(r), own.z, r);
    }
    Matrix<T>* codes = &own.z;
    Matrix<T>* next = &own.next;
    for (std::int64_t t = 0; t < p.n_iter; ++t, std::swap(codes, next)) {
      if (is_time_to_look(t)) turn.look();
      iteration.step(own.b.rows(), codes->rows(), next->row(0), next->stride(), rows, own.supports);
    }
    for (std::int64_t r = 0; r < rows; ++r) codes->get_row(r, z + (begin + r) * p.atoms);
    if (bottleneck == nullptr) return;
    bottleneck->reconstruct(codes->rows(), rows, own.x_hat, own.supports);
    for (std::int64_t r = 0; r < rows; ++r) own.x_hat.get_row(r, x_hat + (begin + r) * bottleneck->features());
  });
}

}  // namespace

template <typename T>
void lista_forward(const ListaProblem<T>& p, T* z, int threads) {
  forward<T>(p, nullptr, z, nullptr, threads);
}

template <typename T>
void sparse_code_forward(const SparseCodeProblem<T>& p, T* z, T* x_hat, int threads) {
  const Bottleneck<T> bottleneck(p, true, threads);
  forward(p.lista, &bottleneck, z, x_hat, threads);
}

template void lista_forward(const ListaProblem<float>&, float*, int);
template void lista_forward(const ListaProblem<double>&, double*, int);
template void sparse_code_forward(const SparseCodeProblem<float>&, float*, float*, int);
template void sparse_code_forward(const SparseCodeProblem<double>&, double*, double*, int);

}  // namespace scvae::cpu

// decode: x_hat = D z, skipping the zeros of z.
#include "cpu/bottleneck.h"
#include "cpu/outer.h"
#include "cpu/parallel.h"
#include "lista.h"

namespace scvae::cpu {
namespace {

// out.row(m) = coefficients.row(m) * matrix for every row m
template <typename T>
void multiply_all(Rows<T> coefficients, const Packed<T>& matrix, std::int64_t rows, T* out, int threads) {
  struct Worker {
    Worker(std::int64_t rows, std::int64_t columns) : result(rows, columns), supports(rows) {}
    Matrix<T> result;
    Supports supports;
  };
  const std::int64_t columns = matrix.factor().columns;
  const Blocks blocks(rows, kRowsPerBlock, threads);
  const int team = team_size(threads, blocks.count);
  std::vector<Worker> workers;
  for (int i = 0; i < team; ++i) workers.emplace_back(blocks.size, columns);
  parallel_for(blocks.count, team, [&](std::int64_t block, int thread) {
    Worker& own = workers[static_cast<std::size_t>(thread)];
    const std::int64_t begin = block * blocks.size, count = std::min(blocks.size, rows - begin);
    multiply_rows({coefficients[begin], coefficients.stride}, matrix, count, own.result, 0, own.supports);
    for (std::int64_t r = 0; r < count; ++r) own.result.get_row(r, out + (begin + r) * columns);
  });
}

template <typename T>
void dictionary_gradient(const DecodeProblem<T>& p, Rows<T> grad, T* d_D, int threads) {
  OuterSum<T> d_atoms(p.atoms, p.features, true);
  bool finite = true;
  for (std::int64_t m = 0; m < p.rows; ++m) finite = finite && kernels<T>().all_finite(grad[m], p.features);
  d_atoms.add(p.z, grad, p.rows, finite ? Zeros::skip : Zeros::keep, threads);
  d_atoms.write_transposed(d_D);
}

}  // namespace

template <typename T>
void decode_forward(const DecodeProblem<T>& p, T* x_hat, int threads) {
  multiply_all(p.z, Packed<T>::transposed(p.D, p.features, p.atoms, threads), p.rows, x_hat, threads);
}

template <typename T>
void decode_backward(const DecodeProblem<T>& p, Rows<T> grad, T* d_z, T* d_D, int threads) {
  if (d_z != nullptr) multiply_all(grad, Packed<T>::straight(p.D, p.features, p.atoms, threads), p.rows, d_z, threads);
  if (d_D != nullptr) dictionary_gradient(p, grad, d_D, threads);
}

template void decode_forward(const DecodeProblem<float>&, float*, int);
template void decode_forward(const DecodeProblem<double>&, double*, int);
template void decode_backward(const DecodeProblem<float>&, Rows<float>, float*, float*, int);
template void decode_backward(const DecodeProblem<double>&, Rows<double>, double*, double*, int);

}  // namespace scvae::cpu

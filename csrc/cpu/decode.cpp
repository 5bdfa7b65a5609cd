// decode: x_hat = D z, skipping the zeros of z.
#include "cpu/matrix.h"
#include "cpu/parallel.h"
#include "lista.h"

namespace scvae::cpu {
namespace {

constexpr std::int64_t kRowsPerTask = 16;
constexpr std::int64_t kRowsPerChunk = 256;  // fixed, so that sums don't depend on the number of threads

template <typename T>
struct Worker {
  explicit Worker(std::int64_t columns, std::int64_t terms) : row(1, columns) { this->terms.reserve(terms); }
  Matrix<T> row;
  Terms<T> terms;
};

template <typename T>
std::vector<Worker<T>> workers(int team, std::int64_t columns, std::int64_t terms) {
  std::vector<Worker<T>> out;
  out.reserve(static_cast<std::size_t>(team));
  for (int i = 0; i < team; ++i) out.emplace_back(columns, terms);
  return out;
}

// out.row(m) = sum_i coefficients[m][i] * matrix.row(i) for every row m: a product with a sparse left factor.
template <typename T>
void multiply(Rows<T> coefficients, const Matrix<T>& matrix, std::int64_t rows, std::int64_t inner, Zeros zeros, T* out,
              int threads) {
  const std::int64_t tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
  const int team = team_size(threads, tasks);
  auto scratch = workers<T>(team, matrix.columns(), inner);
  parallel_for(tasks, team, [&](std::int64_t task, int thread) {
    Worker<T>& own = scratch[static_cast<std::size_t>(thread)];
    const std::int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (std::int64_t m = task * kRowsPerTask; m < end; ++m) {
      gather(own.terms, coefficients[m], inner, zeros);
      std::fill(own.row.row(0), own.row.row(0) + own.row.stride(), T(0));
      accumulate(own.row.row(0), matrix, own.terms);
      own.row.get_row(0, out + m * matrix.columns());
    }
  });
}

// d_D = grad^T z, an atom at a time: the rows of grad whose code uses the atom.
template <typename T>
void dictionary_gradient(const DecodeProblem<T>& p, Rows<T> grad, Zeros zeros, T* d_D, int threads) {
  const int team = team_size(threads, p.atoms);
  Matrix<T> d_atoms(p.atoms, p.features);
  Matrix<T> chunk(std::min(kRowsPerChunk, p.rows), p.features);
  auto scratch = workers<T>(team, 0, kRowsPerChunk);
  for (std::int64_t begin = 0; begin < p.rows; begin += kRowsPerChunk) {
    const std::int64_t size = std::min(kRowsPerChunk, p.rows - begin);
    for (std::int64_t r = 0; r < size; ++r) chunk.set_row(r, grad[begin + r]);
    parallel_for(p.atoms, team, [&](std::int64_t atom, int thread) {
      Terms<T>& terms = scratch[static_cast<std::size_t>(thread)].terms;
      terms.clear();
      for (std::int64_t r = 0; r < size; ++r) {
        const T code = p.z[begin + r][atom];
        if (code != T(0) || zeros == Zeros::keep) terms.push(r, code);
      }
      accumulate(d_atoms.row(atom), chunk, terms);
    });
  }
  for (std::int64_t i = 0; i < p.features; ++i)
    for (std::int64_t k = 0; k < p.atoms; ++k) d_D[i * p.atoms + k] = d_atoms.row(k)[i];
}

}  // namespace

template <typename T>
void decode_forward(const DecodeProblem<T>& p, T* x_hat, int threads) {
  const Zeros zeros = all_finite(p.D, p.features, p.atoms) ? Zeros::skip : Zeros::keep;
  multiply(p.z, packed_transpose(p.D, p.features, p.atoms), p.rows, p.atoms, zeros, x_hat, threads);
}

template <typename T>
void decode_backward(const DecodeProblem<T>& p, Rows<T> grad, T* d_z, T* d_D, int threads) {
  if (d_z != nullptr) {
    const Zeros zeros = all_finite(p.D, p.features, p.atoms) ? Zeros::skip : Zeros::keep;
    multiply(grad, packed(p.D, p.features, p.atoms), p.rows, p.features, zeros, d_z, threads);
  }
  if (d_D != nullptr) {
    const Zeros zeros = all_finite(grad, p.rows, p.features) ? Zeros::skip : Zeros::keep;
    dictionary_gradient(p, grad, zeros, d_D, threads);
  }
}

template void decode_forward(const DecodeProblem<float>&, float*, int);
template void decode_forward(const DecodeProblem<double>&, double*, int);
template void decode_backward(const DecodeProblem<float>&, Rows<float>, float*, float*, int);
template void decode_backward(const DecodeProblem<double>&, Rows<double>, double*, double*, int);

}  // namespace scvae::cpu

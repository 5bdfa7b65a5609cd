// lista and sparse_code, forward: a block of rows goes through all iterations while its codes stay in the cache.
#include "lista.h"

#include "cpu/bottleneck.h"
#include "cpu/iteration.h"
#include "cpu/parallel.h"
#include "cpu/wide.h"

namespace scvae::cpu {
namespace {

// Scratch of one thread.
template <typename T>
struct Worker {
  Worker(std::int64_t rows, const ListaProblem<T>& p, const Bottleneck<T>* bottleneck)
      : Worker(rows, p.atoms, p.momentum != nullptr ? rows : 0, bottleneck != nullptr ? bottleneck->features() : 0,
               bottleneck != nullptr && bottleneck->factored() ? rows : 0) {}
  Matrix<T> b;
  Matrix<T> z;
  Matrix<T> next;
  Matrix<T> before;    // with momentum
  Matrix<T> y;         // with momentum
  Matrix<T> residual;  // in the factored form
  Matrix<T> x_hat;
  Supports supports;

 private:
  Worker(std::int64_t rows, std::int64_t atoms, std::int64_t with_momentum, std::int64_t features,
         std::int64_t factored)
      : b(rows, atoms),
        z(rows, atoms),
        next(rows, atoms),
        before(with_momentum, atoms),
        y(with_momentum, atoms),
        residual(factored, features),
        x_hat(rows, features),
        supports(rows) {}
};

// Runs a block of rows through all iterations.
template <typename T>
class Block {
 public:
  Block(const ListaProblem<T>& p, const Bottleneck<T>* bottleneck, Iteration<T>& iteration, Worker<T>& own,
        std::int64_t begin, std::int64_t rows)
      : p_(p), bottleneck_(bottleneck), iteration_(iteration), own_(own), begin_(begin), rows_(rows) {}

  // z_T; earlier codes are written to where they are kept.
  Matrix<T>& run(Codes<T> kept, const Turn& turn) {
    start();
    Matrix<T>*codes = &own_.z, *next = &own_.next, *before = &own_.before;
    for (std::int64_t t = 0; t < p_.n_iter; ++t) {
      if (is_time_to_look(t)) turn.look();
      step(t, *codes, *before, *next);
      std::swap(codes, next);
      if (p_.momentum != nullptr) std::swap(before, next);
      if (kept.iterates != nullptr && t + 1 < p_.n_iter) keep(t, *codes, kept.iterates);
    }
    return *codes;
  }

 private:
  // z_{t+1}
  void keep(std::int64_t t, const Matrix<T>& codes, T* iterates) const {
    for (std::int64_t r = 0; r < rows_; ++r)
      codes.get_row(r, iterates + ((begin_ + r) * (p_.n_iter - 1) + t) * p_.atoms);
  }

  void start() {
    const bool driven = bottleneck_ != nullptr && !bottleneck_->factored() && p_.row(p_.n_iter) > 0;
    if (driven) bottleneck_->drive(0, begin_, rows_, own_.b, 0, own_.supports);
    for (std::int64_t r = 0; r < rows_; ++r) {
      if (bottleneck_ == nullptr) own_.b.set_row(r, p_.b[begin_ + r]);
      iteration_.start(begin_ + r, own_.b.row(r), own_.z, r);
    }
  }

  void step(std::int64_t t, Matrix<T>& codes, Matrix<T>& before, Matrix<T>& next) {
    Rows<T> y = codes.rows();
    if (t > 0 && p_.momentum != nullptr) {
      for (std::int64_t r = 0; r < rows_; ++r) iteration_.extrapolated(t, codes.row(r), before.row(r), own_.y.row(r));
      y = own_.y.rows();
    }
    if (bottleneck_ == nullptr || !bottleneck_->factored()) {
      if (bottleneck_ != nullptr && bottleneck_->has_drive_for_each() && p_.row(t) > 0)
        bottleneck_->drive(p_.row(t), begin_, rows_, own_.b, 0, own_.supports);
      return iteration_.step(t, own_.b.rows(), y, next.row(0), next.stride(), rows_, own_.supports);
    }
    bottleneck_->residual(begin_, y, rows_, own_.residual, 0, own_.supports);
    Product<T> product = bottleneck_->filtered(t, own_.residual.rows(), rows_);
    iteration_.thresholds().finish(p_, t, y, product);
    product.into(next, 0);
    multiply(product, own_.supports);
  }

  const ListaProblem<T>& p_;
  const Bottleneck<T>* bottleneck_;
  Iteration<T>& iteration_;
  Worker<T>& own_;
  std::int64_t begin_;
  std::int64_t rows_;
};

template <typename T>
void forward(const ListaProblem<T>& p, const Bottleneck<T>* bottleneck, Codes<T> out, T* x_hat, int threads) {
  const bool each = p.S_each != 0 || (bottleneck != nullptr && bottleneck->has_drive_for_each());
  const Blocks blocks(p.rows, each ? kRowsPerBlockOfEach : kRowsPerBlock, threads);
  const int team = team_size(threads, blocks.count);
  Iteration<T> iteration(p, threads);
  std::vector<Worker<T>> workers;
  for (int i = 0; i < team; ++i) workers.emplace_back(blocks.size, p, bottleneck);
  parallel_for(blocks.count, team, [&](std::int64_t block, int thread, const Turn& turn) {
    Worker<T>& own = workers[static_cast<std::size_t>(thread)];
    const std::int64_t begin = block * blocks.size, rows = std::min(blocks.size, p.rows - begin);
    const Matrix<T>& codes = Block<T>(p, bottleneck, iteration, own, begin, rows).run(out, turn);
    for (std::int64_t r = 0; r < rows; ++r) codes.get_row(r, out.z + (begin + r) * p.atoms);
    if (bottleneck == nullptr) return;
    bottleneck->reconstruct(codes.rows(), rows, own.x_hat, own.supports);
    for (std::int64_t r = 0; r < rows; ++r) own.x_hat.get_row(r, x_hat + (begin + r) * bottleneck->features());
  });
}

}  // namespace

template <typename T>
void lista_forward(const ListaProblem<T>& p, Codes<T> codes, int threads) {
  forward<T>(p, nullptr, codes, nullptr, threads);
}

template <typename T>
void sparse_code_forward(const SparseCodeProblem<T>& p, Codes<T> codes, T* x_hat, int threads) {
  if (is_wide(p)) return wide_forward(p, codes, x_hat, threads);
  const Bottleneck<T> bottleneck(p, true, threads);
  forward(p.lista, &bottleneck, codes, x_hat, threads);
}

template void lista_forward(const ListaProblem<float>&, Codes<float>, int);
template void lista_forward(const ListaProblem<double>&, Codes<double>, int);
template void sparse_code_forward(const SparseCodeProblem<float>&, Codes<float>, float*, int);
template void sparse_code_forward(const SparseCodeProblem<double>&, Codes<double>, double*, int);

}  // namespace scvae::cpu

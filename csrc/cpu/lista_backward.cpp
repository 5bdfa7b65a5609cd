// lista and sparse_code, backward, one chunk of rows at a time: the codes are recomputed unless they were kept, the
// adjoint recurrence runs over them, and the chunk's share is added to the gradients of the parameters. The last
// iterations of sparse rows run on their active sets (active_set.h). Memory besides inputs and results is bounded by
// the chunk.
#include <algorithm>
#include <cmath>

#include "cpu/active_set.h"
#include "cpu/backward_parts.h"
#include "cpu/bottleneck.h"
#include "cpu/iterates.h"
#include "cpu/matrix_gradients.h"
#include "cpu/parallel.h"
#include "cpu/wide.h"
#include "lista.h"

namespace scvae::cpu {
namespace {

template <typename T>
class Backward {
 public:
  Backward(const ListaProblem<T>& problem, Ends<T>* ends, Codes<const T> given, Rows<T> grad,
           const ListaGradients<T>& out, Chunk chunk, int threads)
      : p_(problem),
        ends_(ends),
        grad_(grad),
        out_(out),
        threads_(threads),
        iterates_(problem, ends, given, chunk.rows, threads),
        S_(packed_inhibition(problem, false, threads)),
        chunk_(chunk.rows),
        block_(chunk.block),
        adjoints_((problem.n_iter + 1) * chunk_, problem.atoms),
        d_b_(chunk_, problem.atoms),
        matrices_(problem, ends, out.S, threads),
        totals_(problem),
        sets_({iterates_.codes(), adjoints_, chunk_}, problem.n_iter) {
    const std::int64_t blocks = (chunk_ + block_ - 1) / block_;
    for (int i = 0; i < team_size(threads, blocks); ++i) workers_.emplace_back(block_, problem);
    for (std::int64_t i = 0; i < blocks; ++i) shares_.emplace_back(problem);
  }

  void run() {
    for (std::int64_t begin = 0; begin < p_.rows; begin += chunk_) {
      const std::int64_t size = std::min(chunk_, p_.rows - begin), blocks = (size + block_ - 1) / block_;
      parallel_for(blocks, static_cast<int>(std::min<std::int64_t>(blocks, static_cast<std::int64_t>(workers_.size()))),
                   [&](std::int64_t block, int thread, const Turn& turn) {
                     const std::int64_t first = block * block_;
                     rows({begin, first, std::min(block_, size - first)}, workers_[static_cast<std::size_t>(thread)],
                          shares_[static_cast<std::size_t>(block)], turn);
                   });
      for (std::int64_t i = 0; i < blocks; ++i) totals_.add(shares_[static_cast<std::size_t>(i)]);
      if (matrices_.has_S()) matrices_.add_S(size, active_products(size), iterates_, adjoints_);
      matrices_.add_ends(begin, size, iterates_, adjoints_, d_b_);
    }
    matrices_.write();
    totals_.write(p_, out_);
  }

 private:
  // Scratch of one thread.
  struct Worker {
    Worker(std::int64_t rows, const ListaProblem<T>& p)
        : supports(rows),
          d_theta(kThetaSums, p.atoms),
          sets(rows, p.atoms),
          g(p.kappa ? rows : 0, p.atoms),
          carried(p.kappa ? rows : 0, p.atoms),
          q(p.kappa ? rows : 0, p.atoms) {}
    Supports supports;
    Matrix<T> d_theta;  // of one step; accumulated in double
    typename ActiveSets<T>::Worker sets;
    bool finite = false;  // the codes of the current block; for kappa = 1
    // For kappa = 1: the gradient that has reached z_{t+1}, the contribution of momentum to z_t, the gradient of y_t.
    Matrix<T> g;
    Matrix<T> carried;
    Matrix<T> q;
  };

  // Position of the gradient of the threshold's argument, for z_t of the chunk's row r; for kappa = 1 that of v_{t-1}.
  std::int64_t at(std::int64_t t, std::int64_t r) const { return iterates_.at(t, r); }

  bool factored() const { return iterates_.factored(); }
  bool has_drive_for_each() const { return iterates_.has_drive_for_each(); }
  // Whether the last iterations may run on their active sets.
  bool is_shared() const { return !p_.kappa && p_.S_each == 0 && p_.theta_each == 0 && !has_drive_for_each(); }

  // Processes the rows of a block: their codes, then their adjoints.
  void rows(const Part& part, Worker& own, Share<T>& share, const Turn& turn) {
    share.zero();
    iterates_.restore(part, own.supports, turn);
    for (std::int64_t r = part.first; r < part.end(); ++r) {
      d_b_.zero_row(r);
      if (ends_ != nullptr && ends_->out.x != nullptr) ends_->d_x.zero_row(r);
    }
    if (p_.kappa)
      pull_back(part, own, share, turn);
    else
      step_back(part, own, share, turn);
    hand_out(part, own);
  }

  // kappa = 0

  void step_back(const Part& part, Worker& own, Share<T>& share, const Turn& turn) {
    step_back(p_.n_iter, part, own, share);
    active(part, own, share);
    for (std::int64_t t = sets_.begin(part.first) - 1; t >= 0; --t) {
      if (is_time_to_look(t)) turn.look();
      step_back(t, part, own, share);
    }
    leave(part, own, share);
  }

  // Adjoint t: the incoming gradient for t = T, otherwise adjoint t + 1 times S; on the support of z_t.
  void step_back(std::int64_t t, const Part& part, Worker& own, Share<T>& share) {
    const std::int64_t row = at(t, part.first);
    Product<T> product = t == p_.n_iter ? entering(part, adjoints_, row) : through_inhibition(t, part);
    product.into(adjoints_, row);
    if (t > 0 || p_.z0.data == nullptr) {
      product.finish = Finish::adjoint;
      product.codes = iterates_.codes().rows(row);
      product.sum = t > 0 && !has_drive_for_each() ? d_b_.row(part.first) : nullptr;
      product.sum_stride = d_b_.stride();
      product.d_theta = out_.theta != nullptr ? own.d_theta.row(0) : nullptr;
      product.d_theta_stride = own.d_theta.stride();
    }
    if (product.d_theta != nullptr) own.d_theta.zero();
    multiply(product, own.supports);
    if (t > 0 && has_drive_for_each()) through_filter(t, adjoints_.rows(row), part, own);
    if (product.d_theta != nullptr) add_theta(t, own, share);
  }

  void add_theta(std::int64_t row, const Worker& own, Share<T>& share) {
    double* sums = share.theta(row);
    for (std::int64_t i = 0; i < kThetaSums; ++i)
      for (std::int64_t k = 0; k < p_.atoms; ++k) sums[k] += static_cast<double>(own.d_theta.row(i)[k]);
  }

  // Adjoint t + 1 times S_t.
  Product<T> through_inhibition(std::int64_t t, const Part& part) const {
    return product_of(adjoints_.rows(at(t + 1, part.first)), of_iteration(S_, t), part.count);
  }

  // d_x += d_b times that row of W_e
  void through_filter(std::int64_t row, Rows<T> d_b, const Part& part, Worker& own) {
    if (ends_ == nullptr || ends_->out.x == nullptr) return;
    Product<T> product = product_of(d_b, of_iteration(ends_->filter, row), part.count);
    product.init = ends_->d_x.rows(part.first);
    product.into(ends_->d_x, part.first);
    multiply(product, own.supports);
  }

  // The last iterations of a block of rows, on their active sets: this requires finite values, as zeros are skipped.
  void active(const Part& part, Worker& own, Share<T>& share) {
    const bool finite = is_shared() && (S_.empty() || S_[0].finite()) &&
                        all_finite(adjoints_.rows(at(p_.n_iter, part.first)), part.count, p_.atoms) &&
                        iterates_.are_finite(part.first, part.count);
    if (!finite) return sets_.leave_out(part.first, part.count);
    sets_.choose(part.first, part.count, p_.z0.data != nullptr ? 1 : 0, own.sets);
    for (std::int64_t r = part.first; r < part.end(); ++r)
      sets_.step_back(r, p_.S, d_b_.row(r), share.d_theta.data(), own.sets);
  }

  // The gradient of z_T, grad plus grad_x_hat D: writes the first part to rows of `target` from `row` on, and adds the
  // second one as a product.
  Product<T> entering(const Part& part, Matrix<T>& target, std::int64_t row) {
    for (std::int64_t r = 0; r < part.count; ++r) {
      if (grad_.data != nullptr)
        target.set_row(row + r, grad_[part.begin + part.first + r]);
      else
        target.zero_row(row + r);
    }
    Product<T> product;
    product.rows = part.count;
    product.factor.columns = p_.atoms;
    if (ends_ != nullptr && ends_->grad.data != nullptr)
      product = product_of({ends_->grad[part.begin + part.first], ends_->grad.stride}, ends_->dictionary, part.count);
    product.init = target.rows(row);
    return product;
  }

  // The contribution of z_0.
  void leave(const Part& part, Worker& own, Share<T>& share) {
    if (p_.z0.data != nullptr) {
      if (out_.z0 == nullptr) return;
      for (std::int64_t r = part.first; r < part.end(); ++r)
        adjoints_.get_row(at(0, r), out_.z0 + (part.begin + r) * p_.atoms);
      return;
    }
    if (out_.gain != nullptr && has_drive_for_each() && p_.n_iter > 1) iterates_.drive(0, part, own.supports);
    for (std::int64_t r = part.first; r < part.end(); ++r) {
      T* g = adjoints_.row(at(0, r));
      const T* b = iterates_.drive().row(r);
      if (out_.gain != nullptr)
        for (std::int64_t k = 0; k < p_.atoms; ++k)
          share.d_gain += static_cast<double>(b[k]) * static_cast<double>(g[k]);
      kernels<T>().scale(g, p_.gain, in_vectors<T>(p_.atoms), g);
      kernels<T>().add(g, in_vectors<T>(p_.atoms), d_b_.row(r));
    }
    if (has_drive_for_each()) through_filter(0, adjoints_.rows(part.first), part, own);
  }

  // kappa = 1

  void pull_back(const Part& part, Worker& own, Share<T>& share, const Turn& turn) {
    Product<T> product = entering(part, own.g, 0);
    product.into(own.g, 0);
    multiply(product, own.supports);
    own.carried.zero();
    own.finite = iterates_.are_finite(part.first, part.count);
    for (std::int64_t t = p_.n_iter - 1; t >= 0; --t) {
      if (is_time_to_look(t)) turn.look();
      pull_back(t, part, own, share);
    }
    if (out_.z0 == nullptr) return;
    for (std::int64_t r = part.first; r < part.end(); ++r)
      own.g.get_row(r - part.first, out_.z0 + (part.begin + r) * p_.atoms);
  }

  // From the gradient of z_{t+1} to that of z_t, both in own.g.
  void pull_back(std::int64_t t, const Part& part, Worker& own, Share<T>& share) {
    const Kernels<T>& k = kernels<T>();
    const std::int64_t atoms = in_vectors<T>(p_.atoms);
    own.d_theta.zero();
    for (std::int64_t r = part.first; r < part.end(); ++r) {
      T* g = own.g.row(r - part.first);
      T* adjoint = adjoints_.row(at(t + 1, r));
      k.gate(g, iterates_.row(t + 1, r), atoms, g, out_.theta != nullptr ? own.d_theta.row(r % kThetaSums) : nullptr);
      k.scale(g, p_.step != nullptr ? p_.step[t * p_.step_each] : T(1), atoms, adjoint);
    }
    if (out_.theta != nullptr) add_theta(p_.row(t), own, share);
    const bool by_products = own.finite && gives_step_by_products(t);
    if (out_.step != nullptr && !by_products) add_step(t, part, own, share);
    through_direction(t, part, own);
    if (out_.step != nullptr && by_products) add_step_by_products(t, part, own, share);
    const bool moves = t > 0 && p_.momentum != nullptr;
    for (std::int64_t r = part.first; r < part.end(); ++r) {
      const std::int64_t i = r - part.first;
      k.pull(own.q.row(i), moves ? p_.momentum + t * p_.momentum_each : nullptr, atoms, own.g.row(i),
             own.carried.row(i));
      if (moves && out_.momentum != nullptr)
        of_iteration(share.d_momentum, t) += k.dot(own.q.row(i), iterates_.row(t, r), iterates_.row(t - 1, r), atoms);
    }
  }

  // The gradient of y_t through v_t, into own.q.
  void through_direction(std::int64_t t, const Part& part, Worker& own) {
    const Rows<T> adjoints = adjoints_.rows(at(t + 1, part.first));
    if (!factored() && has_drive_for_each()) through_filter(t, adjoints, part, own);
    if (!factored() && !has_drive_for_each())
      for (std::int64_t r = 0; r < part.count; ++r)
        kernels<T>().add(adjoints[r], in_vectors<T>(p_.atoms), d_b_.row(part.first + r));
    Product<T> product = factored() ? through_residual(t, adjoints, part, own) : through_inhibition(t, part);
    product.into(own.q, 0);
    multiply(product, own.supports);
  }

  // The gradients of the residual x - D y_t, and their product with -D.
  Product<T> through_residual(std::int64_t t, Rows<T> adjoints, const Part& part, Worker& own) {
    const std::int64_t row = at(t, part.first), features = in_vectors<T>(ends_->bottleneck.features());
    multiply_rows(adjoints, of_iteration(ends_->filter, t), part.count, ends_->errors, row, own.supports);
    for (std::int64_t r = 0; r < part.count; ++r) {
      T* error = ends_->errors.row(row + r);
      if (ends_->out.x != nullptr) kernels<T>().add(error, features, ends_->d_x.row(part.first + r));
      kernels<T>().scale(error, T(-1), features, error);
    }
    return product_of(ends_->errors.rows(row), ends_->dictionary, part.count);
  }

  // The gradient of the step, the sum of v_t g, with v_t recomputed.
  void add_step(std::int64_t t, const Part& part, Worker& own, Share<T>& share) {
    iterates_.direction(t, part, own.q, own.supports);
    for (std::int64_t i = 0; i < part.count; ++i)
      of_iteration(share.d_step, t) += kernels<T>().dot(own.g.row(i), own.q.row(i), nullptr, in_vectors<T>(p_.atoms));
  }

  // Whether it follows from products that are made anyway: v_t g = b g + y (g S_t), and in the factored form
  // v_t g = (x - D y_t) (g W_t). The available adjoint includes the step as a factor.
  bool gives_step_by_products(std::int64_t t) const {
    if (p_.step == nullptr || has_drive_for_each()) return false;
    const T step = p_.step[t * p_.step_each];
    return std::isnormal(step) && std::isnormal(T(1) / step);
  }

  void add_step_by_products(std::int64_t t, const Part& part, Worker& own, Share<T>& share) {
    const Kernels<T>& k = kernels<T>();
    const auto step = static_cast<double>(p_.step[t * p_.step_each]);
    double& sum = of_iteration(share.d_step, t);
    for (std::int64_t i = 0; i < part.count; ++i) {
      const std::int64_t r = part.first + i;
      if (factored()) {
        const std::int64_t features = in_vectors<T>(ends_->bottleneck.features());
        sum -= k.dot(ends_->errors.row(at(t, r)), ends_->residuals.row(at(t, r)), nullptr, features) / step;
      } else {
        sum += k.dot(iterates_.drive().row(r), own.g.row(i), nullptr, in_vectors<T>(p_.atoms)) +
               k.dot(iterates_.y(t, r)[0], own.q.row(i), nullptr, in_vectors<T>(p_.atoms)) / step;
      }
    }
  }

  // Results for the caller, row by row.
  void hand_out(const Part& part, Worker& own) {
    if (ends_ != nullptr && ends_->out.x != nullptr) {
      if (!factored() && !has_drive_for_each()) through_filter(0, d_b_.rows(part.first), part, own);
      const std::int64_t features = ends_->bottleneck.features();
      for (std::int64_t r = part.first; r < part.end(); ++r)
        ends_->d_x.get_row(r, ends_->out.x + (part.begin + r) * features);
    }
    if (out_.b != nullptr)
      for (std::int64_t r = part.first; r < part.end(); ++r) d_b_.get_row(r, out_.b + (part.begin + r) * p_.atoms);
  }

  // Adds the contribution of the active sets of the chunk's rows to the gradient of S. Returns the number of first
  // iterations that some rows treated densely; the adjoints of the other rows there become zero.
  std::int64_t active_products(std::int64_t size) {
    if (!is_shared()) return p_.n_iter;
    const auto threads = static_cast<int>(workers_.size());
    const Blocks blocks(p_.atoms, p_.atoms, threads);
    parallel_for(blocks.count, team_size(threads, blocks.count), [&](std::int64_t block, int thread) {
      sets_.add_products(size, block * blocks.size, blocks.size, matrices_.shared_S(),
                         workers_[static_cast<std::size_t>(thread)].sets);
    });
    std::int64_t dense = 0;
    for (std::int64_t r = 0; r < size; ++r) dense = std::max(dense, sets_.begin(r));
    for (std::int64_t r = 0; r < size; ++r)
      for (std::int64_t t = sets_.begin(r) + 1; t <= dense; ++t) adjoints_.zero_row(at(t, r));
    return dense;
  }

  const ListaProblem<T>& p_;
  Ends<T>* ends_;
  Rows<T> grad_;
  const ListaGradients<T>& out_;
  int threads_;
  Iterates<T> iterates_;
  std::vector<Packed<T>> S_;
  std::int64_t chunk_;
  std::int64_t block_;
  Matrix<T> adjoints_;  // for t = 0 … T, (T + 1) chunks
  Matrix<T> d_b_;
  MatrixGradients<T> matrices_;
  Share<T> totals_;
  std::vector<Worker> workers_;
  std::vector<Share<T>> shares_;
  ActiveSets<T> sets_;
};

}  // namespace

template <typename T>
void lista_backward(const ListaProblem<T>& p, Codes<const T> codes, Rows<T> grad, const ListaGradients<T>& out,
                    int threads) {
  Backward<T>(p, nullptr, codes, grad, out, chunk_of(p, 0, false), threads).run();
}

template <typename T>
void sparse_code_backward(const SparseCodeProblem<T>& p, Codes<const T> codes, Rows<T> grad_z, Rows<T> grad_x_hat,
                          const SparseCodeGradients<T>& out, int threads) {
  if (is_wide_backward(p, codes.z) && wide_backward(p, codes, grad_z, grad_x_hat, out, threads)) return;
  const Chunk chunk = chunk_of(p);
  Ends<T> ends(p, grad_x_hat, out, chunk.rows, threads);
  Backward<T>(p.lista, &ends, codes, grad_z, out.lista, chunk, threads).run();
}

template void lista_backward(const ListaProblem<float>&, Codes<const float>, Rows<float>, const ListaGradients<float>&,
                             int);
template void lista_backward(const ListaProblem<double>&, Codes<const double>, Rows<double>,
                             const ListaGradients<double>&, int);
template void sparse_code_backward(const SparseCodeProblem<float>&, Codes<const float>, Rows<float>, Rows<float>,
                                   const SparseCodeGradients<float>&, int);
template void sparse_code_backward(const SparseCodeProblem<double>&, Codes<const double>, Rows<double>, Rows<double>,
                                   const SparseCodeGradients<double>&, int);

}  // namespace scvae::cpu

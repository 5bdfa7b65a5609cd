// lista and sparse_code, backward: a chunk of rows at a time, the codes are recomputed, the adjoint recurrence runs
// over them, and then the chunk's share is added to the gradients of the parameters. The last iterations of rows that
// are sparse run on their active sets (active_set.h). What this needs besides its inputs is bounded by the chunk.
// Measured, recomputing takes a quarter of the pass, or two fifths where active sets save most of the rest; keeping the
// iterates instead, six bytes for each code that is not zero, would take 50 MiB at T = 30, M = 4096, K = 512 and 5 %
// final density, where all that is kept now is 12 MiB, and would grow with T.
#include <algorithm>

#include "cpu/active_set.h"
#include "cpu/bottleneck.h"
#include "cpu/iteration.h"
#include "cpu/outer.h"
#include "cpu/parallel.h"
#include "lista.h"

namespace scvae::cpu {
namespace {

// All of them fixed, and with them the order of every sum.
constexpr std::int64_t kChunkBytes = 8 << 20;
constexpr std::int64_t kBlockRows = 24;  // smaller than in the forward pass, so that a chunk keeps many threads busy
constexpr std::int64_t kMaxChunkRows = 768;

template <typename T>
std::int64_t chunk_rows(const ListaProblem<T>& p) {
  const std::int64_t row_bytes = 2 * (p.n_iter + 2) * padded<T>(p.atoms) * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t fitting = kChunkBytes / row_bytes / kBlockRows * kBlockRows;
  return std::clamp<std::int64_t>(p.rows, 1, std::clamp(fitting, 4 * kBlockRows, kMaxChunkRows));
}

// What the backward pass of sparse_code has besides that of lista.
template <typename T>
struct Ends {
  Ends(const SparseCodeProblem<T>& p, Rows<T> grad_x_hat, const SparseCodeGradients<T>& out, std::int64_t chunk,
       int threads)
      : bottleneck(p, false, threads),
        filter(Packed<T>::straight(p.W_e, out.x != nullptr ? p.lista.atoms : 0, p.features, threads)),
        dictionary(Packed<T>::straight(p.D, grad_x_hat.data != nullptr ? p.features : 0, p.lista.atoms, threads)),
        grad(grad_x_hat),
        d_x(out.x != nullptr ? chunk : 0, p.features),
        d_W_e(p.lista.atoms, p.features, out.W_e != nullptr),
        d_D(p.lista.atoms, p.features, out.D != nullptr),
        out(out) {}

  Bottleneck<T> bottleneck;
  Packed<T> filter;      // W_e, where d_x is wanted
  Packed<T> dictionary;  // D, where there is a gradient of x_hat
  Rows<T> grad;          // of x_hat; data may be null
  Matrix<T> d_x;
  OuterSum<T> d_W_e;
  OuterSum<T> d_D;
  const SparseCodeGradients<T>& out;
};

template <typename T>
class Backward {
 public:
  Backward(const ListaProblem<T>& problem, Ends<T>* ends, Rows<T> z, Rows<T> grad, const ListaGradients<T>& out,
           int threads)
      : p_(problem),
        ends_(ends),
        z_(z),
        grad_(grad),
        out_(out),
        threads_(threads),
        iteration_(problem, threads),
        S_(Packed<T>::straight(problem.S, problem.n_iter > 0 ? problem.atoms : 0, problem.atoms, threads)),
        chunk_(chunk_rows(problem)),
        block_(std::min(kBlockRows, chunk_)),
        codes_((problem.n_iter + 1) * chunk_, problem.atoms),
        adjoints_((problem.n_iter + 1) * chunk_, problem.atoms),
        drive_(chunk_, problem.atoms),
        d_b_(chunk_, problem.atoms),
        d_S_(problem.atoms, problem.atoms, out.S != nullptr),
        d_theta_(static_cast<std::size_t>(problem.atoms), 0.0),
        sets_({codes_, adjoints_, chunk_}, problem.n_iter) {
    const std::int64_t blocks = (chunk_ + block_ - 1) / block_;
    for (int i = 0; i < team_size(threads, blocks); ++i) workers_.emplace_back(block_, problem.atoms);
    for (std::int64_t i = 0; i < blocks; ++i) shares_.emplace_back(problem.atoms);
  }

  void run() {
    double d_gain = 0;
    for (std::int64_t begin = 0; begin < p_.rows; begin += chunk_) {
      const std::int64_t size = std::min(chunk_, p_.rows - begin), blocks = (size + block_ - 1) / block_;
      parallel_for(blocks, static_cast<int>(std::min<std::int64_t>(blocks, static_cast<std::int64_t>(workers_.size()))),
                   [&](std::int64_t block, int thread, const Turn& turn) {
                     const std::int64_t first = block * block_;
                     rows(begin, first, std::min(block_, size - first), workers_[static_cast<std::size_t>(thread)],
                          shares_[static_cast<std::size_t>(block)], turn);
                   });
      for (std::int64_t i = 0; i < blocks; ++i) {
        const Share& share = shares_[static_cast<std::size_t>(i)];
        d_gain += share.d_gain;
        for (std::size_t k = 0; k < d_theta_.size(); ++k) d_theta_[k] += share.d_theta[k];
      }
      parameters(begin, size);
    }
    write(d_gain);
  }

 private:
  // What one thread needs for itself.
  struct Worker {
    Worker(std::int64_t rows, std::int64_t atoms) : supports(rows), d_theta(kThetaSums, atoms), sets(rows, atoms) {}
    Supports supports;
    Matrix<T> d_theta;  // of one step: added up further in double
    typename ActiveSets<T>::Worker sets;
  };

  // What a block of rows adds to the gradients of theta and gain.
  struct Share {
    explicit Share(std::int64_t atoms) : d_theta(static_cast<std::size_t>(atoms)) {}
    std::vector<double> d_theta;
    double d_gain = 0;
  };

  // The codes z_t of the chunk's row r, and the gradient of what the threshold was applied to.
  std::int64_t at(std::int64_t t, std::int64_t r) const { return t * chunk_ + r; }

  // The rows of a block: their codes again, then their adjoints.
  void rows(std::int64_t begin, std::int64_t first, std::int64_t count, Worker& own, Share& share, const Turn& turn) {
    std::fill(share.d_theta.begin(), share.d_theta.end(), 0.0);
    share.d_gain = 0;
    recompute(begin, first, count, own, turn);
    step_back(begin, p_.n_iter, first, count, own, share);
    active(first, count, own, share);
    for (std::int64_t t = sets_.begin(first) - 1; t >= 0; --t) {
      if (is_time_to_look(t)) turn.look();
      step_back(begin, t, first, count, own, share);
    }
    leave(begin, first, count, share);
    if (ends_ != nullptr && ends_->out.x != nullptr) {
      multiply_rows(d_b_.rows(first), ends_->filter, count, ends_->d_x, first, own.supports);
      const std::int64_t features = ends_->bottleneck.features();
      for (std::int64_t r = first; r < first + count; ++r) ends_->d_x.get_row(r, ends_->out.x + (begin + r) * features);
    }
  }

  void recompute(std::int64_t begin, std::int64_t first, std::int64_t count, Worker& own, const Turn& turn) {
    if (ends_ != nullptr) ends_->bottleneck.drive(begin + first, count, drive_, first, own.supports);
    for (std::int64_t r = first; r < first + count; ++r) {
      if (ends_ == nullptr) drive_.set_row(r, p_.b[begin + r]);
      if (p_.n_iter > 0) iteration_.start(begin + r, drive_.row(r), codes_, r);
      codes_.set_row(at(p_.n_iter, r), z_[begin + r]);
    }
    for (std::int64_t t = 0; t + 1 < p_.n_iter; ++t) {
      if (is_time_to_look(t)) turn.look();
      iteration_.step(drive_.rows(first), codes_.rows(at(t, first)), codes_.row(at(t + 1, first)), codes_.stride(),
                      count, own.supports);
    }
  }

  // Adjoint t: what comes from the caller for t = T, else adjoint t + 1 times S; on the support of z_t.
  void step_back(std::int64_t begin, std::int64_t t, std::int64_t first, std::int64_t count, Worker& own,
                 Share& share) {
    Product<T> product;
    product.rows = count;
    product.out = adjoints_.row(at(t, first));
    product.out_stride = adjoints_.stride();
    if (t == p_.n_iter) {
      enter(begin, first, count, product);
    } else {
      product.factor = S_.factor();
      product.coefficients = adjoints_.rows(at(t + 1, first));
      product.zeros = S_.finite() ? Zeros::skip : Zeros::keep;
    }
    if (t > 0 || p_.z0.data == nullptr) {
      product.finish = Finish::adjoint;
      product.codes = codes_.rows(at(t, first));
      product.sum = t > 0 ? d_b_.row(first) : nullptr;
      product.sum_stride = d_b_.stride();
      product.d_theta = out_.theta != nullptr ? own.d_theta.row(0) : nullptr;
      product.d_theta_stride = own.d_theta.stride();
    }
    if (product.d_theta != nullptr) own.d_theta.zero();
    multiply(product, own.supports);
    if (product.d_theta == nullptr) return;
    for (std::int64_t i = 0; i < kThetaSums; ++i)
      for (std::size_t k = 0; k < share.d_theta.size(); ++k)
        share.d_theta[k] += static_cast<double>(own.d_theta.row(i)[k]);
  }

  // The last iterations of a block of rows, on their active sets: elsewhere zeros are multiplied with what is finite.
  void active(std::int64_t first, std::int64_t count, Worker& own, Share& share) {
    bool finite = S_.finite();
    for (std::int64_t r = first; finite && r < first + count; ++r)
      finite = kernels<T>().all_finite(adjoints_.row(at(p_.n_iter, r)), p_.atoms) &&
               kernels<T>().all_finite(codes_.row(at(p_.n_iter, r)), p_.atoms);
    if (!finite) return sets_.leave_out(first, count);
    sets_.choose(first, count, p_.z0.data != nullptr ? 1 : 0, own.sets);
    for (std::int64_t r = first; r < first + count; ++r)
      sets_.step_back(r, p_.S, d_b_.row(r), share.d_theta.data(), own.sets);
  }

  // The gradient of z_T: grad, plus grad_x_hat D.
  void enter(std::int64_t begin, std::int64_t first, std::int64_t count, Product<T>& product) {
    for (std::int64_t r = first; r < first + count; ++r) {
      if (grad_.data != nullptr)
        adjoints_.set_row(at(p_.n_iter, r), grad_[begin + r]);
      else
        adjoints_.zero_row(at(p_.n_iter, r));
      d_b_.zero_row(r);
    }
    product.init = adjoints_.rows(at(p_.n_iter, first));
    product.factor.columns = p_.atoms;
    if (ends_ == nullptr || ends_->grad.data == nullptr) return;
    product.factor = ends_->dictionary.factor();
    product.coefficients = {ends_->grad[begin + first], ends_->grad.stride};
    product.zeros = ends_->dictionary.finite() ? Zeros::skip : Zeros::keep;
  }

  // The share of z_0, and what goes to the caller row by row.
  void leave(std::int64_t begin, std::int64_t first, std::int64_t count, Share& share) {
    for (std::int64_t r = first; r < first + count; ++r) {
      const T* g = adjoints_.row(at(0, r));
      T* d_b = d_b_.row(r);
      if (p_.z0.data != nullptr) {
        if (out_.z0 != nullptr) std::copy(g, g + p_.atoms, out_.z0 + (begin + r) * p_.atoms);
      } else {
        const T* b = drive_.row(r);
        if (out_.gain != nullptr)
          for (std::int64_t k = 0; k < p_.atoms; ++k)
            share.d_gain += static_cast<double>(b[k]) * static_cast<double>(g[k]);
        for (std::int64_t k = 0; k < p_.atoms; ++k) d_b[k] += p_.gain * g[k];
      }
      if (out_.b != nullptr) d_b_.get_row(r, out_.b + (begin + r) * p_.atoms);
    }
  }

  // Whether zeros of what the chunk's rows `right` are multiplied with may be skipped.
  static Zeros zeros(Rows<T> right, std::int64_t rows, std::int64_t columns) {
    bool finite = true;
    for (std::int64_t r = 0; r < rows; ++r) finite = finite && kernels<T>().all_finite(right[r], columns);
    return finite ? Zeros::skip : Zeros::keep;
  }

  // What the active sets of the chunk's rows give to the gradient of S. Returns how many iterations, from the first on,
  // some rows were not treated on them; of rows that were there, the adjoints become zero.
  std::int64_t active_products(std::int64_t size) {
    const auto threads = static_cast<int>(workers_.size());
    const Blocks blocks(p_.atoms, p_.atoms, threads);
    parallel_for(blocks.count, team_size(threads, blocks.count), [&](std::int64_t block, int thread) {
      sets_.add_products(size, block * blocks.size, blocks.size, d_S_.sum(),
                         workers_[static_cast<std::size_t>(thread)].sets);
    });
    std::int64_t dense = 0;
    for (std::int64_t r = 0; r < size; ++r) dense = std::max(dense, sets_.begin(r));
    for (std::int64_t r = 0; r < size; ++r)
      for (std::int64_t t = sets_.begin(r) + 1; t <= dense; ++t) adjoints_.zero_row(at(t, r));
    return dense;
  }

  // The chunk's share of the gradients of S, W_e and D.
  void parameters(std::int64_t begin, std::int64_t size) {
    if (out_.S != nullptr && p_.n_iter > 0) {
      const std::int64_t dense = active_products(size);
      // Where z_T is finite, so are the codes before it: infinity and NaN don't go away.
      const Zeros skip = zeros({z_[begin], z_.stride}, size, p_.atoms);
      if (size == chunk_)
        d_S_.add(adjoints_.rows(chunk_), codes_.rows(), dense * chunk_, skip, threads_);
      else
        for (std::int64_t t = 0; t < dense; ++t)
          d_S_.add(adjoints_.rows(at(t + 1, 0)), codes_.rows(at(t, 0)), size, skip, threads_);
    }
    if (ends_ == nullptr) return;
    const std::int64_t features = ends_->bottleneck.features();
    if (ends_->out.W_e != nullptr) {
      const Rows<T> x{ends_->bottleneck.x()[begin], ends_->bottleneck.x().stride};
      ends_->d_W_e.add(d_b_.rows(), x, size, zeros(x, size, features), threads_);
    }
    if (ends_->out.D != nullptr && ends_->grad.data != nullptr) {
      const Rows<T> grad{ends_->grad[begin], ends_->grad.stride};
      ends_->d_D.add({z_[begin], z_.stride}, grad, size, zeros(grad, size, features), threads_);
    }
  }

  void write(double d_gain) {
    if (out_.gain != nullptr) *out_.gain = static_cast<T>(d_gain);
    if (out_.S != nullptr) d_S_.write(out_.S);
    if (ends_ != nullptr && ends_->out.W_e != nullptr) ends_->d_W_e.write(ends_->out.W_e);
    if (ends_ != nullptr && ends_->out.D != nullptr) ends_->d_D.write_transposed(ends_->out.D);
    if (out_.theta == nullptr) return;
    double sum = 0;
    for (std::size_t k = 0; k < d_theta_.size(); ++k) {
      sum += d_theta_[k];
      if (p_.theta_per_atom) out_.theta[k] = static_cast<T>(d_theta_[k]);
    }
    if (!p_.theta_per_atom) *out_.theta = static_cast<T>(sum);
  }

  const ListaProblem<T>& p_;
  Ends<T>* ends_;
  Rows<T> z_;
  Rows<T> grad_;
  const ListaGradients<T>& out_;
  int threads_;
  Iteration<T> iteration_;
  Packed<T> S_;
  std::int64_t chunk_;
  std::int64_t block_;
  Matrix<T> codes_;     // of t = 0 … T, (T + 1) chunks
  Matrix<T> adjoints_;  // likewise
  Matrix<T> drive_;
  Matrix<T> d_b_;
  OuterSum<T> d_S_;
  std::vector<double> d_theta_;
  std::vector<Worker> workers_;
  std::vector<Share> shares_;
  ActiveSets<T> sets_;
};

}  // namespace

template <typename T>
void lista_backward(const ListaProblem<T>& p, Rows<T> z, Rows<T> grad, const ListaGradients<T>& out, int threads) {
  Backward<T>(p, nullptr, z, grad, out, threads).run();
}

template <typename T>
void sparse_code_backward(const SparseCodeProblem<T>& p, Rows<T> z, Rows<T> grad_z, Rows<T> grad_x_hat,
                          const SparseCodeGradients<T>& out, int threads) {
  Ends<T> ends(p, grad_x_hat, out, chunk_rows(p.lista), threads);
  Backward<T>(p.lista, &ends, z, grad_z, out.lista, threads).run();
}

template void lista_backward(const ListaProblem<float>&, Rows<float>, Rows<float>, const ListaGradients<float>&, int);
template void lista_backward(const ListaProblem<double>&, Rows<double>, Rows<double>, const ListaGradients<double>&,
                             int);
template void sparse_code_backward(const SparseCodeProblem<float>&, Rows<float>, Rows<float>, Rows<float>,
                                   const SparseCodeGradients<float>&, int);
template void sparse_code_backward(const SparseCodeProblem<double>&, Rows<double>, Rows<double>, Rows<double>,
                                   const SparseCodeGradients<double>&, int);

}  // namespace scvae::cpu

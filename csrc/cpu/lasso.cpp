#include "cpu/lasso.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/blocks.h"
#include "cpu/kernels.h"
#include "cpu/lasso_atoms.h"
#include "cpu/lasso_kernels.h"
#include "cpu/lasso_row.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"
#include "cpu/product.h"

namespace scvae::cpu {
namespace {

constexpr std::int64_t kRowsOfLasso = 48;            // of a block
constexpr std::int64_t kMostCorrelations = 1 << 20;  // elements of a block's correlations
constexpr int kLeastScale = -1000;                   // its exponent: one over it is a number
constexpr int kWithoutProgress = 3;                  // rounds after which a row counts as stopped by rounding
constexpr double kProgress = 0.7;                    // a gap smaller by that factor is progress

// What the blocks share.
template <typename T>
struct Shared {
  Shared(const LassoProblem<T>& problem, int threads) : p(problem), atoms(problem, threads), weights(problem.atoms) {
    if (p.alpha.stride == 0 && atoms.valid()) weights.set(p.alpha[0], atoms.units(), p.atoms);
  }

  const LassoProblem<T>& p;
  LassoAtoms<T> atoms;
  Weights<T> weights;
};

// A row in progress: its nonzero codes, in the scale of the atoms and of x.
template <typename T>
struct Progress {
  std::int64_t row = 0;
  double scale = 1;   // x is divided by it
  double energy = 0;  // 1/2 |x|^2 of what is left
  std::int64_t sweeps = 0;
  double best = std::numeric_limits<double>::infinity();
  int without_progress = 0;
  bool grew = true;
  std::vector<std::int32_t> index;
  std::vector<T> codes;
};

template <typename T>
class Block {
 public:
  Block(Shared<T>& shared, std::int64_t rows)
      : s_(shared),
        p_(shared.p),
        k_(lasso_kernels<T>()),
        residuals_(whole(rows), p_.features),
        correlations_(whole(rows), s_.atoms.columns()),
        g_(s_.atoms.columns()),
        minus_(s_.atoms.columns()),
        left_(p_.features) {
    const bool shares = p_.alpha.stride == 0;
    for (std::int64_t i = 0; i < (p_.gram ? 1 : rows); ++i) solvers_.emplace_back(p_, s_.atoms);
    for (std::int64_t i = 0; i < rows && !shares; ++i) weights_.emplace_back(p_.atoms);
  }

  void solve(std::int64_t begin, std::int64_t count, T* codes, double* gap, const Turn& turn) {
    start(begin, count, codes, gap);
    if (p_.gram) by_gram(turn);
    while (!live_.empty()) {
      for (std::size_t i = 0; i < live_.size(); ++i) residual(live_[i], static_cast<std::int64_t>(i));
      clear_rest(static_cast<std::int64_t>(live_.size()));
      s_.atoms.correlate(residuals_, static_cast<std::int64_t>(live_.size()), correlations_);
      std::vector<std::size_t> going;
      for (std::size_t i = 0; i < live_.size(); ++i) {
        Progress<T>& at = progress_[live_[i]];
        if (goes_on(at, live_[i], static_cast<std::int64_t>(i), gap[at.row], turn))
          going.push_back(live_[i]);
        else
          write(at, codes + at.row * p_.atoms);
      }
      live_ = std::move(going);
    }
  }

 private:
  static std::int64_t whole(std::int64_t rows) { return (rows + kDenseRows - 1) / kDenseRows * kDenseRows; }

  LassoRow<T>& solver(std::size_t i) { return solvers_[p_.gram ? 0 : i]; }
  const Weights<T>& weights(std::size_t i) const { return p_.alpha.stride == 0 ? s_.weights : weights_[i]; }

  void begin_row(std::size_t i) {
    const Progress<T>& at = progress_[i];
    solver(i).begin(weights(i), at.scale, at.index.data(), at.codes.data(), static_cast<std::int64_t>(at.index.size()));
  }

  // Rows of zeros are done; the others are scaled.
  void start(std::int64_t begin, std::int64_t count, T* codes, double* gap) {
    progress_.assign(static_cast<std::size_t>(count), {});
    live_.clear();
    for (std::int64_t r = 0; r < count; ++r) {
      const auto i = static_cast<std::size_t>(r);
      Progress<T>& at = progress_[i];
      at.row = begin + r;
      at.sweeps = p_.sweeps;
      const T* x = p_.x[at.row];
      const auto largest = static_cast<double>(k_.largest(x, p_.features));
      std::fill(codes + at.row * p_.atoms, codes + (at.row + 1) * p_.atoms, T(0));
      gap[at.row] = 0;
      if (largest == 0) continue;
      at.scale = std::exp2(std::max(std::ilogb(largest), kLeastScale));
      at.energy = 0.5 * k_.square(x, 1 / at.scale, p_.features);
      if (p_.alpha.stride != 0) weights_[i].set(p_.alpha[at.row], s_.atoms.units(), p_.atoms);
      if (p_.z0.data != nullptr) read(p_.z0[at.row], at);
      if (!p_.gram) begin_row(i);
      live_.push_back(i);
    }
  }

  void read(const T* z0, Progress<T>& at) const {
    for (std::int64_t k = 0; k < p_.atoms; ++k) {
      const auto code =
          static_cast<T>(static_cast<double>(z0[k]) / at.scale * static_cast<double>(s_.atoms.units()[k]));
      if (code == T(0)) continue;
      at.index.push_back(static_cast<std::int32_t>(k));
      at.codes.push_back(code);
    }
  }

  void write(const Progress<T>& at, T* codes) const {
    for (std::size_t t = 0; t < at.index.size(); ++t) {
      const std::int32_t k = at.index[t];
      codes[k] = static_cast<T>(static_cast<double>(at.codes[t]) * at.scale / static_cast<double>(s_.atoms.units()[k]));
    }
  }

  // Solves one row after the other, with correlations from the Gram matrix.
  void by_gram(const Turn& turn) {
    for (std::size_t i = 0; i < live_.size(); ++i) {
      const T* x = p_.x[progress_[live_[i]].row];
      const double by = 1 / progress_[live_[i]].scale;
      T* scaled = residuals_.row(static_cast<std::int64_t>(i));
      for (std::int64_t f = 0; f < p_.features; ++f) scaled[f] = static_cast<T>(static_cast<double>(x[f]) * by);
    }
    clear_rest(static_cast<std::int64_t>(live_.size()));
    s_.atoms.correlate(residuals_, static_cast<std::int64_t>(live_.size()), correlations_);
    for (std::size_t i = 0; i < live_.size(); ++i) {
      Progress<T>& at = progress_[live_[i]];
      LassoRow<T>& solver = this->solver(live_[i]);
      begin_row(live_[i]);
      auto state = LassoRow<T>::State::going;
      while (state == LassoRow<T>::State::going && at.sweeps > 0) {
        const T* g = from_gram(correlations_.row(static_cast<std::int64_t>(i)), at);
        state = solver.advance(g, at.energy, at.sweeps, at.grew, turn);
        solver.codes(at.index, at.codes);
      }
    }
  }

  // g = b - z G
  const T* from_gram(const T* b, const Progress<T>& at) {
    if (at.index.empty()) return b;
    const Kernels<T>& k = kernels<T>();
    for (std::size_t t = 0; t < at.index.size(); ++t) minus_.data()[at.index[t]] = -at.codes[t];
    const Panelling by(s_.atoms.columns(), k.lanes, k.wide);
    Combination<T> c = {};
    c.index = at.index.data();
    c.terms = static_cast<std::int64_t>(at.index.size());
    c.coefficient = minus_.data();
    c.source_stride = s_.atoms.gram().stride();
    for (std::int64_t panel = 0; panel < by.panels; ++panel) {
      c.source = s_.atoms.gram().row(0) + by.begin(panel);
      c.init = b + by.begin(panel);
      c.out = g_.data() + by.begin(panel);
      k.combine[static_cast<int>(Finish::store)][0][by.width(panel) / by.lanes - 1](c);
    }
    return g_.data();
  }

  // x - D z of a row, rounded once.
  void residual(std::size_t i, std::int64_t to) {
    const Progress<T>& at = progress_[i];
    k_.residual(p_.x[at.row], at.scale, s_.atoms.rows().row(0), s_.atoms.rows().stride(), at.index.data(),
                at.codes.data(), static_cast<std::int64_t>(at.index.size()), p_.features, left_.data());
    T* out = residuals_.row(to);
    for (std::int64_t f = 0; f < p_.features; ++f) out[f] = static_cast<T>(left_.data()[f]);
  }

  void clear_rest(std::int64_t rows) {
    for (std::int64_t r = rows; r < whole(rows); ++r) residuals_.zero_row(r);
  }

  // Writes a row's gap, and continues the row unless the gap is small enough or the row makes no progress.
  bool goes_on(Progress<T>& at, std::size_t i, std::int64_t place, double& gap, const Turn& turn) {
    LassoRow<T>& solver = this->solver(i);
    solver.weigh(weights(i), at.scale);
    const T* g = correlations_.row(place);
    const double found = exact_gap(solver, at, residuals_.row(place), g);
    gap = found / at.energy;
    if (gap <= p_.tolerance || at.sweeps == 0) return false;
    at.without_progress = at.grew || found < kProgress * at.best ? 0 : at.without_progress + 1;
    at.best = std::min(at.best, found);
    if (at.without_progress >= kWithoutProgress) return false;
    if (p_.gram) begin_row(i);
    if (solver.advance(g, at.energy, at.sweeps, at.grew, turn) == LassoRow<T>::State::stalled) return false;
    solver.codes(at.index, at.codes);
    return true;
  }

  // The formula of `Lasso.relative_gap` in scvae_fast/ops/lasso_solver.py, in which nothing cancels.
  double exact_gap(const LassoRow<T>& solver, const Progress<T>& at, const T* r, const T* g) const {
    const double s = 1 / std::max(1.0, solver.ratio(g));
    const double square = k_.square(r, 1, p_.features);
    double slack = 0;
    for (std::size_t t = 0; t < at.index.size(); ++t) {
      const double code = static_cast<double>(at.codes[t]);
      slack += solver.alpha(at.index[t]) * std::fabs(code) - s * code * static_cast<double>(g[at.index[t]]);
    }
    return 0.5 * (1 - s) * (1 - s) * square + std::max(slack, 0.0);
  }

  Shared<T>& s_;
  const LassoProblem<T>& p_;
  const LassoKernels<T>& k_;
  Matrix<T> residuals_, correlations_;
  Buffer<T> g_, minus_;
  Buffer<double> left_;
  std::vector<LassoRow<T>> solvers_;
  std::vector<Weights<T>> weights_;
  std::vector<Progress<T>> progress_;
  std::vector<std::size_t> live_;
};

}  // namespace

template <typename T>
bool lasso(const LassoProblem<T>& p, T* codes, double* gap, int threads) {
  Shared<T> shared(p, threads);
  if (!shared.atoms.valid()) return false;
  const std::int64_t most =
      std::clamp<std::int64_t>(kMostCorrelations / shared.atoms.columns(), kDenseRows, kRowsOfLasso);
  const Blocks blocks(p.rows, most, threads);
  const int team = team_size(threads, blocks.count);
  std::vector<Block<T>> workers;
  workers.reserve(static_cast<std::size_t>(team));
  for (int thread = 0; thread < team; ++thread) workers.emplace_back(shared, blocks.size);
  parallel_for(blocks.count, team, [&](std::int64_t block, int thread, const Turn& turn) {
    const std::int64_t begin = block * blocks.size;
    workers[static_cast<std::size_t>(thread)].solve(begin, std::min(blocks.size, p.rows - begin), codes, gap, turn);
  });
  return true;
}

template bool lasso(const LassoProblem<float>&, float*, double*, int);
template bool lasso(const LassoProblem<double>&, double*, double*, int);

}  // namespace scvae::cpu

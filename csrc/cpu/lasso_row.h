// One row of the lasso: coordinate descent over a working set of atoms that grows where the dual constraints are
// violated (Johnson & Guestrin 2015; Massias, Gramfort & Salmon 2018), and jumps to the optimum of a support that has
// settled (Lee, Battle, Raina & Ng 2007).
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/lasso.h"
#include "cpu/lasso_atoms.h"
#include "cpu/lasso_kernels.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"

namespace scvae::cpu {

// alpha of a row in the scale of the atoms: `base` times `unit`.
template <typename T>
struct Weights {
  explicit Weights(std::int64_t atoms) : base(padded<T>(atoms)), inverse(padded<T>(atoms)) {}
  void set(const T* alpha, const T* units, std::int64_t atoms);

  Buffer<T> base;
  Buffer<T> inverse;  // zeros beyond the atoms
  double unit = 1;
};

template <typename T>
class LassoRow {
 public:
  enum class State { reached, stalled, going };

  LassoRow(const LassoProblem<T>& problem, LassoAtoms<T>& atoms);

  // Starts with these codes, of x divided by `scale`.
  void begin(const Weights<T>& weights, double scale, const std::int32_t* index, const T* codes, std::int64_t terms);
  // Sets only the weights, which is all that `ratio` and `alpha` need.
  void weigh(const Weights<T>& weights, double scale);

  // Finds better codes, from the correlations g of all atoms with the residual of the present codes. `energy` is
  // 1/2 |x|^2. `grew` says whether atoms joined the working set.
  State advance(const T* g, double energy, std::int64_t& sweeps, bool& grew, const Turn& turn);

  // The nonzero codes.
  void codes(std::vector<std::int32_t>& index, std::vector<T>& values) const;
  // The largest |g[k]| / alpha[k].
  double ratio(const T* g) const;
  double alpha(std::int64_t atom) const;

 private:
  double gap_of(double ratio, const GapTerms<T>& terms, double energy) const;
  bool grow(const T* g, double largest);
  void add(const std::int32_t* atoms, std::int64_t count);
  void products(std::int32_t atom, std::int64_t last, T* out) const;
  std::size_t at(std::int64_t i, std::int64_t j) const { return static_cast<std::size_t>(i * capacity_ + j); }
  void clear();
  void reserve(std::int64_t size);
  void drop_zeros();
  T descend(double energy, double enough, std::int64_t& sweeps, const Turn& turn);
  WorkingSet<T> set();

  const LassoProblem<T>& p_;
  LassoAtoms<T>& atoms_;
  const LassoKernels<T>& k_;
  const Weights<T>* weights_ = nullptr;
  double weight_ = 1;  // alpha is base times weight_
  std::int64_t size_ = 0;
  std::int64_t capacity_ = 0;
  std::vector<std::int32_t> atom_;   // of the set
  std::vector<bool> chosen_;         // of all atoms, whether they are in it
  std::vector<std::int32_t> found_;  // scratch
  AlignedVector<T> gram_, scratch_;
  bool jumped_ = false;  // since the row began
  AlignedVector<T> inverse_, alpha_, code_, correlation_;
};

}  // namespace scvae::cpu

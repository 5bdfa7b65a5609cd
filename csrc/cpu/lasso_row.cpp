#include "cpu/lasso_row.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/kernels.h"

namespace scvae::cpu {
namespace {

constexpr std::int64_t kFirst = 32;      // atoms that a working set has room for at first
constexpr std::int64_t kFewAtoms = 16;   // that may join it at a time
constexpr double kShare = 0.3;           // of the largest violation: atoms that violate more than that join
constexpr double kShareJumped = 0.7;     // the same of a row that jumped: of atoms that are correlated, few are needed
constexpr std::int64_t kSweeps = 2;      // before a jump;
constexpr std::int64_t kAtoms = 16;      // plus one for this many atoms in the set: a jump takes about that long
constexpr double kInner = 0.1;           // of the gap of all atoms that a working set is solved to
constexpr double kMargin = 0.8;          // of the tolerance, for what is not certified exactly
constexpr std::int64_t kLookEvery = 64;  // sweeps

// Bounds ratios and weights to avoid overflow; beyond that, alpha dominates or vanishes.
template <typename T>
constexpr double kExtreme = sizeof(T) == 4 ? 1e30 : 1e250;

template <typename T>
double bounded(double value) {
  return std::min(std::max(value, 1 / kExtreme<T>), kExtreme<T>);
}

}  // namespace

template <typename T>
void Weights<T>::set(const T* alpha, const T* units, std::int64_t atoms) {
  double largest = 0;
  for (std::int64_t k = 0; k < atoms; ++k)
    largest = std::max(largest, static_cast<double>(alpha[k]) / static_cast<double>(units[k]));
  unit = largest;
  std::fill(inverse.data(), inverse.data() + inverse.size(), T(0));
  std::fill(base.data(), base.data() + base.size(), T(1));
  for (std::int64_t k = 0; k < atoms; ++k) {
    const double value = bounded<T>(static_cast<double>(alpha[k]) / static_cast<double>(units[k]) / unit);
    base.data()[k] = static_cast<T>(value);
    inverse.data()[k] = static_cast<T>(1 / value);
  }
}

template <typename T>
LassoRow<T>::LassoRow(const LassoProblem<T>& problem, LassoAtoms<T>& atoms)
    : p_(problem),
      atoms_(atoms),
      k_(lasso_kernels<T>()),
      chosen_(static_cast<std::size_t>(problem.atoms), false),
      found_(static_cast<std::size_t>(padded<T>(problem.atoms) + 16)) {}

template <typename T>
void LassoRow<T>::begin(const Weights<T>& weights, double scale, const std::int32_t* index, const T* codes,
                        std::int64_t terms) {
  weigh(weights, scale);
  clear();
  jumped_ = false;
  add(index, terms);
  std::copy(codes, codes + terms, code_.begin());
}

template <typename T>
void LassoRow<T>::weigh(const Weights<T>& weights, double scale) {
  weights_ = &weights;
  weight_ = bounded<T>(weights.unit / scale);
}

template <typename T>
typename LassoRow<T>::State LassoRow<T>::advance(const T* g, double energy, std::int64_t& sweeps, bool& grew,
                                                 const Turn& turn) {
  for (std::int64_t i = 0; i < size_; ++i) {
    const auto at = static_cast<std::size_t>(i);
    correlation_[at] = g[atom_[at]];
  }
  const double largest = ratio(g);
  const double gap = gap_of(largest, k_.gap_terms(set()), energy);
  grew = false;
  if (gap <= kMargin * p_.tolerance * energy) return State::reached;
  grew = grow(g, largest);
  const double enough = std::max(kMargin * kMargin * p_.tolerance * energy, kInner * gap);
  const T moved = descend(energy, enough, sweeps, turn);
  const T size = k_.gap_terms(set()).size;
  return !grew && moved <= 4 * std::numeric_limits<T>::epsilon() * size ? State::stalled : State::going;
}

template <typename T>
void LassoRow<T>::codes(std::vector<std::int32_t>& index, std::vector<T>& values) const {
  const auto size = static_cast<std::size_t>(size_);
  index.resize(size);
  values.resize(size);
  std::size_t found = 0;
  for (std::size_t i = 0; i < size; ++i) {
    index[found] = atom_[i];
    values[found] = code_[i];
    found += code_[i] != T(0);  // a branch would often be mispredicted
  }
  index.resize(found);
  values.resize(found);
}

template <typename T>
double LassoRow<T>::ratio(const T* g) const {
  return static_cast<double>(k_.largest_ratio(g, weights_->inverse.data(), padded<T>(p_.atoms), p_.positive)) / weight_;
}

template <typename T>
double LassoRow<T>::alpha(std::int64_t atom) const {
  return static_cast<double>(weights_->base.data()[atom]) * weight_;
}

// Uses |x| for |residual|, an upper bound once the codes are better than zeros.
template <typename T>
double LassoRow<T>::gap_of(double ratio, const GapTerms<T>& terms, double energy) const {
  const double s = 1 / std::max(1.0, ratio);
  const double slack = static_cast<double>(terms.absolute) - s * static_cast<double>(terms.product);
  return (1 - s) * (1 - s) * energy + std::max(slack, 0.0);
}

// The atoms that violate their constraints most join the set.
template <typename T>
bool LassoRow<T>::grow(const T* g, double largest) {
  constexpr double rounding = 4 * std::numeric_limits<T>::epsilon();
  if (largest <= 1 + rounding) return false;
  std::int64_t live = 0;
  for (std::int64_t i = 0; i < size_; ++i) live += code_[static_cast<std::size_t>(i)] != T(0);
  if (size_ > 4 * live + 4 * kFewAtoms) drop_zeros();
  const auto bound =
      static_cast<T>((1 + std::max(rounding, (jumped_ ? kShareJumped : kShare) * (largest - 1))) * weight_);
  const T* inverse = weights_->inverse.data();
  const auto columns = padded<T>(p_.atoms);
  std::int64_t count = k_.above(g, inverse, columns, p_.positive, bound, found_.data());
  const auto end = std::remove_if(found_.begin(), found_.begin() + count,
                                  [&](std::int32_t k) { return chosen_[static_cast<std::size_t>(k)]; });
  count = end - found_.begin();
  const std::int64_t most = std::max(kFewAtoms, 2 * live);
  if (count > most) {
    const auto size = [&](std::int32_t k) { return (p_.positive ? g[k] : std::fabs(g[k])) * inverse[k]; };
    std::nth_element(found_.begin(), found_.begin() + most, end, [&](std::int32_t a, std::int32_t b) {
      return size(a) > size(b) || (size(a) == size(b) && a < b);
    });
    count = most;
    std::sort(found_.begin(), found_.begin() + count);
  }
  const std::int64_t before = size_;
  add(found_.data(), count);
  for (auto i = static_cast<std::size_t>(before); i < static_cast<std::size_t>(size_); ++i)
    correlation_[i] = g[atom_[i]];
  return count > 0;
}

// Products of an atom with the first atoms of the set, up to number `last`.
template <typename T>
void LassoRow<T>::products(std::int32_t atom, std::int64_t last, T* out) const {
  const std::int32_t* others = atom_.data();
  if (atoms_.has_gram()) {
    const T* row = atoms_.gram().row(atom);
    for (std::int64_t j = 0; j <= last; ++j) out[j] = row[others[j]];
  } else {
    for (std::int64_t j = 0; j <= last; ++j)
      out[j] =
          static_cast<T>(kernels<T>().dot(atoms_.rows().row(atom), atoms_.rows().row(others[j]), nullptr, p_.features));
  }
}

// The atoms join with codes and correlations of zero.
template <typename T>
void LassoRow<T>::add(const std::int32_t* atoms, std::int64_t count) {
  reserve(size_ + count);
  atoms_.need(atoms, count);
  const std::int64_t before = size_, stride = capacity_;
  size_ += count;
  for (std::int64_t i = before; i < size_; ++i) {
    const std::int32_t atom = atoms[i - before];
    chosen_[static_cast<std::size_t>(atom)] = true;
    atom_[static_cast<std::size_t>(i)] = atom;
    alpha_[static_cast<std::size_t>(i)] = static_cast<T>(alpha(atom));
    T* row = gram_.data() + i * stride;
    products(atom, i, row);
    std::fill(row + i + 1, row + stride, T(0));
    inverse_[static_cast<std::size_t>(i)] = 1 / row[i];
  }
  for (std::int64_t i = 0; i < size_; ++i)
    for (std::int64_t j = std::max(i + 1, before); j < size_; ++j) gram_[at(i, j)] = gram_[at(j, i)];
}

template <typename T>
void LassoRow<T>::clear() {
  for (std::size_t i = 0; i < static_cast<std::size_t>(size_); ++i) {
    chosen_[static_cast<std::size_t>(atom_[i])] = false;
    code_[i] = correlation_[i] = T(0);
  }
  size_ = 0;
}

template <typename T>
void LassoRow<T>::reserve(std::int64_t size) {
  if (size < capacity_) return;
  const std::int64_t before = capacity_;
  capacity_ = row_distance<T>(std::max({kFirst, size + 1, std::min(2 * before, p_.atoms + 1)}));
  AlignedVector<T> gram(static_cast<std::size_t>(capacity_ * capacity_), T(0));
  for (std::int64_t i = 0; i < size_; ++i)
    std::copy(gram_.begin() + i * before, gram_.begin() + i * before + size_, gram.begin() + i * capacity_);
  gram_ = std::move(gram);
  scratch_.resize(static_cast<std::size_t>(capacity_ * (capacity_ + 6)));
  for (AlignedVector<T>* each : {&inverse_, &code_, &correlation_})
    each->resize(static_cast<std::size_t>(capacity_), T(0));
  alpha_.resize(static_cast<std::size_t>(capacity_), T(1));
  atom_.resize(static_cast<std::size_t>(capacity_));
}

template <typename T>
void LassoRow<T>::drop_zeros() {
  std::vector<std::int32_t> index;
  std::vector<T> values, correlations;
  for (std::size_t i = 0; i < static_cast<std::size_t>(size_); ++i) {
    if (code_[i] == T(0)) continue;
    index.push_back(atom_[i]);
    values.push_back(code_[i]);
    correlations.push_back(correlation_[i]);
  }
  clear();
  add(index.data(), static_cast<std::int64_t>(index.size()));
  std::copy(values.begin(), values.end(), code_.begin());
  std::copy(correlations.begin(), correlations.end(), correlation_.begin());
}

// Descends until the working set's gap is small enough, or rounding stops it. Returns the largest change of a code in
// the first sweep, or infinity after a jump.
template <typename T>
T LassoRow<T>::descend(double energy, double enough, std::int64_t& sweeps, const Turn& turn) {
  const WorkingSet<T> w = set();
  T first = 0;
  std::int64_t since = 0;
  GapTerms<T> terms;
  const auto solved = [&] {
    terms = k_.gap_terms(w);
    return gap_of(static_cast<double>(terms.ratio), terms, energy) <= enough;
  };
  for (std::int64_t done = 0; sweeps > 0; ++done) {
    if (done % kLookEvery == kLookEvery - 1) turn.look();
    --sweeps;
    const T largest = k_.sweep(w);
    if (done == 0) first = largest;
    if (solved() || largest <= std::numeric_limits<T>::epsilon() * terms.size) break;
    if (++since < kSweeps + size_ / kAtoms) continue;
    while (sweeps > 0) {
      const int went = k_.jump(w, scratch_.data(), found_.data());
      jumped_ = true;
      if (went != 0) first = std::numeric_limits<T>::infinity();
      if (went != 1 || solved()) break;
      --sweeps;
    }
    if (solved()) break;
    since = 0;
  }
  return first;
}

template <typename T>
WorkingSet<T> LassoRow<T>::set() {
  return {size_,         capacity_,   gram_.data(), inverse_.data(),
          alpha_.data(), p_.positive, code_.data(), correlation_.data()};
}

template struct Weights<float>;
template struct Weights<double>;
template class LassoRow<float>;
template class LassoRow<double>;

}  // namespace scvae::cpu

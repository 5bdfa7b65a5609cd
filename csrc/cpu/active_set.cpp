#include "cpu/active_set.h"

#include <algorithm>
#include <cstddef>

namespace scvae::cpu {
namespace {

constexpr std::int64_t kWord = 64;  // bits per word of a mask

// Largest active set: with more atoms, the gathered part of S is neither small nor read often enough.
std::int64_t most_atoms(std::int64_t atoms) { return (atoms + 3) / 4; }

std::int64_t words(std::int64_t atoms) { return (atoms + kWord - 1) / kWord; }

// Cost of an iteration per row in the backward pass, in cycles of the machine named in csrc/cpu/README.md: as a dense
// row whose adjoint has this many nonzero entries, ...
double dense_step(double live, double atoms) { return (6 + 0.2 * live) * atoms; }

// ... on an active set of this many atoms, ...
double active_step(double size) { return 400 + 2 * size + size * size / 7; }

// ... and the one-time cost of an active set.
double active_start(double size) { return 2000 + 7 * size * size; }

// Moves element k to atoms[k]; the rest of the columns becomes zero. In place, which atoms[k] >= k allows.
template <typename T>
void expand(const std::int32_t* atoms, std::int64_t size, std::int64_t columns, T* row) {
  std::int64_t end = columns;
  for (std::int64_t k = size - 1; k >= 0; --k) {
    const T value = row[k];
    std::fill(row + atoms[k] + 1, row + end, T(0));
    row[atoms[k]] = value;
    end = atoms[k];
  }
  std::fill(row, row + end, T(0));
}

// The inverse.
template <typename T>
void compress(const std::int32_t* atoms, std::int64_t size, T* row) {
  for (std::int64_t k = 0; k < size; ++k) row[k] = row[atoms[k]];
}

}  // namespace

template <typename T>
ActiveSets<T>::Worker::Worker(std::int64_t rows, std::int64_t atoms)
    : masks(static_cast<std::size_t>(rows * words(atoms))),
      S(most_atoms(atoms), most_atoms(atoms)),
      codes(kDepth, most_atoms(atoms)),
      coefficients(most_atoms(atoms), kDepth),
      block(most_atoms(atoms), most_atoms(atoms)),
      sums(2, most_atoms(atoms)),
      supports(most_atoms(atoms)) {}

template <typename T>
ActiveSets<T>::ActiveSets(Trajectory<T> trajectory, std::int64_t n_iter)
    : trajectory_(trajectory),
      n_iter_(n_iter),
      most_(most_atoms(trajectory.codes.columns())),
      begins_(static_cast<std::size_t>(trajectory.chunk), n_iter),
      sizes_(static_cast<std::size_t>(trajectory.chunk)),
      atoms_(trajectory.chunk * most_) {}

template <typename T>
void ActiveSets<T>::leave_out(std::int64_t first, std::int64_t count) {
  std::fill_n(begins_.begin() + first, count, n_iter_);
}

template <typename T>
void ActiveSets<T>::choose(std::int64_t first, std::int64_t count, std::int64_t least, Worker& own) {
  leave_out(first, count);
  const Matrix<T>& codes = trajectory_.codes;
  const auto atoms = static_cast<double>(codes.columns());
  const std::int64_t width = words(codes.columns());
  std::fill(own.masks.begin(), own.masks.end(), 0);
  double dense = 0, saved = 0, live = 0;  // live: nonzero entries of codes t + 1
  for (std::int64_t t = n_iter_; t >= least; --t) {
    if (t < n_iter_) dense += static_cast<double>(count) * dense_step(live / static_cast<double>(count), atoms);
    double active = 0;
    live = 0;
    for (std::int64_t r = first; r < first + count; ++r) {
      std::uint64_t* mask = own.masks.data() + (r - first) * width;
      live += static_cast<double>(kernels<T>().mark(codes.row(trajectory_.at(t, r)), codes.columns(), mask));
      std::int64_t size = 0;
      for (std::int64_t w = 0; w < width; ++w) size += __builtin_popcountll(mask[w]);
      if (size > most_) return;
      active += active_start(static_cast<double>(size)) +
                static_cast<double>(n_iter_ - t) * active_step(static_cast<double>(size));
    }
    if (dense - active <= saved) continue;
    saved = dense - active;
    std::fill_n(begins_.begin() + first, count, t);
    for (std::int64_t r = first; r < first + count; ++r) keep(r, own.masks.data() + (r - first) * width);
  }
}

template <typename T>
void ActiveSets<T>::keep(std::int64_t r, const std::uint64_t* mask) {
  std::int32_t* next = atoms_.data() + r * most_;
  for (std::int64_t w = 0; w < words(trajectory_.codes.columns()); ++w)
    for (std::uint64_t rest = mask[w]; rest != 0; rest &= rest - 1)
      *next++ = static_cast<std::int32_t>(w * kWord + __builtin_ctzll(rest));
  sizes_[static_cast<std::size_t>(r)] = next - (atoms_.data() + r * most_);
}

template <typename T>
void ActiveSets<T>::step_back(std::int64_t r, Rows<T> S, T* d_b, double* d_theta, Worker& own) {
  const std::int64_t begin = this->begin(r), size = sizes_[static_cast<std::size_t>(r)];
  if (begin == n_iter_) return;
  const std::int32_t* atoms = this->atoms(r);
  const auto codes = [&](std::int64_t t) { return trajectory_.codes.row(trajectory_.at(t, r)); };
  const auto adjoint = [&](std::int64_t t) { return trajectory_.adjoints.row(trajectory_.at(t, r)); };
  own.S.pack_part(S, atoms, size);
  for (std::int64_t t = begin; t <= n_iter_; ++t) compress(atoms, size, codes(t));
  compress(atoms, size, adjoint(n_iter_));
  own.sums.zero();
  Product<T> product;
  product.factor = own.S.factor();
  product.rows = 1;
  product.finish = Finish::adjoint;
  product.d_theta = own.sums.row(1);
  for (std::int64_t t = n_iter_ - 1; t >= begin; --t) {
    product.coefficients = {adjoint(t + 1), 0};
    product.codes = {codes(t), 0};
    product.out = adjoint(t);
    product.sum = t > 0 ? own.sums.row(0) : nullptr;
    multiply(product, own.supports);
  }
  for (std::int64_t k = 0; k < size; ++k) {
    d_b[atoms[k]] += own.sums.row(0)[k];
    d_theta[atoms[k]] += static_cast<double>(own.sums.row(1)[k]);
  }
  expand(atoms, size, padded<T>(trajectory_.codes.columns()), adjoint(begin));
}

template <typename T>
void ActiveSets<T>::add_products(std::int64_t rows, std::int64_t first_atom, std::int64_t count, Matrix<T>& sum,
                                 Worker& own) const {
  const std::int64_t distance = trajectory_.chunk * trajectory_.codes.stride();  // from one t to the next
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t size = sizes_[static_cast<std::size_t>(r)];
    const std::int32_t *atoms = this->atoms(r), *end = atoms + size;
    const std::int32_t* lower = std::lower_bound(atoms, end, first_atom);
    const std::int32_t* upper = std::lower_bound(lower, end, first_atom + count);
    if (begin(r) == n_iter_ || lower == upper) continue;
    Product<T> product;
    product.rows = upper - lower;
    product.out = own.block.row(0);
    product.out_stride = own.block.stride();
    product.coefficients = own.coefficients.rows();
    product.zeros = Zeros::keep;  // few are zero, and the order of terms must not depend on first_atom
    for (std::int64_t t = begin(r); t < n_iter_; t += kDepth) {
      const std::int64_t terms = std::min(kDepth, n_iter_ - t);
      own.codes.pack({trajectory_.codes.row(trajectory_.at(t, r)), distance}, terms, size);
      kernels<T>().transpose(trajectory_.adjoints.row(trajectory_.at(t + 1, r)) + (lower - atoms), distance, terms,
                             product.rows, own.coefficients.row(0), own.coefficients.stride());
      product.factor = own.codes.factor();
      multiply(product, own.supports);
      product.init = own.block.rows();
    }
    for (std::int64_t i = 0; i < product.rows; ++i) {
      T* target = sum.row(lower[i]);
      const T* source = own.block.row(i);
      for (std::int64_t k = 0; k < size; ++k) target[atoms[k]] += source[k];
    }
  }
}

template class ActiveSets<float>;
template class ActiveSets<double>;

}  // namespace scvae::cpu

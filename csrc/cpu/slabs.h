// Building blocks of the factored form over many atoms: slabs of the matrices, and lists of nonzero entries.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/blocks.h"
#include "cpu/iteration.h"
#include "cpu/parallel.h"
#include "cpu/product.h"

namespace scvae::cpu {

// Number of atoms that are packed at a time: the rows of a packed matrix's tile.
inline constexpr std::int64_t kSlab = kDepth;

// From this number of elements of W_e and of D, packed copies would be too large.
inline constexpr std::int64_t kTooLarge = 4 << 20;

template <typename T>
bool is_large(const SparseCodeProblem<T>& p) {
  return p.lista.atoms * p.features >= kTooLarge;
}

// The nonzero entries of some rows' codes within the atoms of a slab, row after row.
template <typename T>
struct Entries {
  void append(const T* row, std::int64_t width, std::int32_t* index) {
    const std::int64_t count = kernels<T>().support(row, 0, 1, width, index);
    for (std::int64_t i = 0; i < count; ++i) {
      atoms.push_back(static_cast<std::int16_t>(index[i]));
      codes.push_back(row[index[i]]);
    }
    begins.push_back(atoms.size());
  }
  void shrink() {
    atoms.shrink_to_fit();
    codes.shrink_to_fit();
  }
  std::size_t bytes() const { return atoms.size() * (sizeof(std::int16_t) + 2 * sizeof(T)); }

  // target = factor times the values of a row, as a dense row of a slab's width
  void scatter(std::int64_t r, const std::vector<T>& values, T factor, std::int64_t width, T* target) const {
    std::fill(target, target + padded<T>(width), T(0));
    for (std::size_t i = begin(r); i < begin(r + 1); ++i) target[atoms[i]] = factor * values[i];
  }
  std::size_t begin(std::int64_t r) const { return begins[static_cast<std::size_t>(r)]; }

  std::vector<std::size_t> begins{0};  // start of each row, and the end of the last
  std::vector<std::int16_t> atoms;     // relative to the slab's first atom, ascending within a row
  std::vector<T> codes;
  std::vector<T> adjoints;  // of the threshold's argument
};

// Scratch of one thread.
template <typename T>
struct SlabWorker {
  SlabWorker(std::int64_t chunk, std::int64_t features)
      : coefficients(kRowsPerBlock, kSlab),
        codes(kRowsPerBlock, kSlab),
        left(chunk, kSlab),
        atoms(chunk > 0 ? kSlab : 0, features),
        supports(kRowsPerBlock),
        index(kSlab + 2 * kLine) {}
  Matrix<T> coefficients;  // a block of rows, the atoms of a slab
  Matrix<T> codes;         // likewise
  Matrix<T> left;          // backward: all rows of a chunk
  Matrix<T> atoms;         // backward: of D, one atom per row
  Supports supports;
  std::vector<std::int32_t> index;
};

// The products of an iteration, slab by slab of atoms.
template <typename T>
class Slabs {
 public:
  Slabs(const SparseCodeProblem<T>& p, std::int64_t chunk, int threads)
      : p_(p),
        threads_(threads),
        count_((p.lista.atoms + kSlab - 1) / kSlab),
        thresholds_(p.lista),
        keeps_(!is_large(p)),
        filters_(static_cast<std::size_t>(count_)),
        filters_back_(static_cast<std::size_t>(count_)),
        dictionary_(static_cast<std::size_t>(count_)) {
    for (int i = 0; i < team_size(threads, count_); ++i) workers_.emplace_back(chunk, p.features);
  }

  std::int64_t count() const { return count_; }
  std::int64_t first(std::int64_t slab) const { return slab * kSlab; }
  std::int64_t width(std::int64_t slab) const { return std::min(kSlab, p_.lista.atoms - first(slab)); }

  // W_e of iteration t: the atoms of a slab, one per row.
  Rows<T> filter(std::int64_t t, std::int64_t slab) const {
    return {p_.W_e.data + p_.lista.row(t) * p_.W_e_each + first(slab) * p_.W_e.stride, p_.W_e.stride};
  }
  // D: the atoms of a slab, one per column.
  Rows<T> dictionary(std::int64_t slab) const { return {p_.D.data + first(slab), p_.D.stride}; }

  // body(slab, worker) for each slab
  template <typename Body>
  void for_each(const Body& body) {
    parallel_for(count_, static_cast<int>(workers_.size()),
                 [&](std::int64_t slab, int thread) { body(slab, workers_[static_cast<std::size_t>(thread)]); });
  }

  // sum = codes of a number of rows times D^T; coefficients(slab, first row, rows, worker) returns codes of a block.
  template <typename Coefficients>
  void decode(std::int64_t rows, const Coefficients& coefficients, Matrix<T>& sum) {
    sum.zero();
    for (std::int64_t slab = 0; slab < count_; ++slab) {
      const auto pack = [&] { return Packed<T>::transposed(dictionary(slab), p_.features, width(slab), threads_); };
      Slot once;
      add(slab, packed(keeps_ ? of(dictionary_, slab) : once, pack), rows, coefficients, sum);
    }
  }

  // sum = adjoints of a number of rows times W_e of iteration t
  template <typename Coefficients>
  void filter_back(std::int64_t t, std::int64_t rows, const Coefficients& coefficients, Matrix<T>& sum) {
    sum.zero();
    for (std::int64_t slab = 0; slab < count_; ++slab) {
      const auto pack = [&] { return Packed<T>::straight(filter(t, slab), width(slab), p_.features, threads_); };
      Slot once;
      add(slab, packed(keeps_filter() ? of(filters_back_, slab) : once, pack), rows, coefficients, sum);
    }
  }

  // z_{t+1} within the atoms of a slab: load(first row, rows) writes z_t of a block to own.coefficients, and
  // store(first row, rows) takes z_{t+1} from own.codes.
  template <typename Load, typename Store>
  void step(std::int64_t t, std::int64_t slab, Rows<T> residuals, std::int64_t rows, SlabWorker<T>& own,
            const Load& load, const Store& store) {
    const auto pack = [&] { return Packed<T>::transposed(filter(t, slab), width(slab), p_.features, 1); };
    Slot once;
    const Packed<T>& matrix = packed(keeps_filter() ? of(filters_, slab) : once, pack);
    for (std::int64_t begin = 0; begin < rows; begin += kRowsPerBlock) {
      const std::int64_t count = std::min(kRowsPerBlock, rows - begin);
      load(begin, count);
      Product<T> product = product_of<T>({residuals[begin], residuals.stride}, matrix, count);
      thresholds_.finish(p_.lista, t, own.coefficients.rows(), product);
      product.theta += first(slab);
      product.into(own.codes, 0);
      multiply(product, own.supports);
      store(begin, count);
    }
  }

  // residuals = x - sum
  void residual(std::int64_t begin, std::int64_t rows, const Matrix<T>& sum, Matrix<T>& residuals,
                std::int64_t target) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      const T *x = p_.x[begin + r], *s = sum.row(r);
      T* out = residuals.row(target + r);
      for (std::int64_t j = 0; j < p_.features; ++j) out[j] = x[j] - s[j];
    }
  }

 private:
  // A packed slab, if it is kept. Only the thread that works on the slab requests it.
  using Slot = std::optional<Packed<T>>;
  static Slot& of(std::vector<Slot>& slots, std::int64_t slab) { return slots[static_cast<std::size_t>(slab)]; }
  template <typename Pack>
  static const Packed<T>& packed(Slot& slot, const Pack& pack) {
    if (!slot.has_value()) slot.emplace(pack());
    return *slot;
  }
  bool keeps_filter() const { return keeps_ && p_.W_e_each == 0; }

  template <typename Coefficients>
  void add(std::int64_t slab, const Packed<T>& matrix, std::int64_t rows, const Coefficients& coefficients,
           Matrix<T>& sum) {
    const Blocks blocks(rows, kRowsPerBlock, threads_);
    const int team = team_size(static_cast<int>(workers_.size()), blocks.count);
    parallel_for(blocks.count, team, [&](std::int64_t block, int thread) {
      SlabWorker<T>& own = workers_[static_cast<std::size_t>(thread)];
      const std::int64_t begin = block * blocks.size, count = std::min(blocks.size, rows - begin);
      Product<T> product = product_of<T>(coefficients(slab, begin, count, own), matrix, count);
      product.init = sum.rows(begin);
      product.into(sum, begin);
      multiply(product, own.supports);
    });
  }

  const SparseCodeProblem<T>& p_;
  int threads_;
  std::int64_t count_;
  Thresholds<T> thresholds_;
  bool keeps_;  // whether packed slabs are kept for the next iterations
  std::vector<Slot> filters_;
  std::vector<Slot> filters_back_;
  std::vector<Slot> dictionary_;
  std::vector<SlabWorker<T>> workers_;
};

}  // namespace scvae::cpu

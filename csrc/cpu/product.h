// The product of a block of sparse rows with a matrix, on which every pass of every operation is based.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "lista.h"

namespace scvae::cpu {

inline constexpr std::int64_t kThetaSums = 2;

// Skipping a zero coefficient is exact only if its other factor is finite: 0 * inf and 0 * NaN are NaN.
enum class Zeros { skip, keep };

// Number of columns in whole vectors of the current kernels: the part of a scratch row that a product writes. Its
// padding may be wider.
template <typename T>
std::int64_t in_vectors(std::int64_t columns) {
  const std::int64_t lanes = kernels<T>().lanes;
  return (columns + lanes - 1) / lanes * lanes;
}

// Divides columns into panels of at most `wide` vectors with nearly equal widths.
struct Panelling {
  Panelling(std::int64_t columns, std::int64_t lanes, std::int64_t wide)
      : lanes(lanes), vectors((columns + lanes - 1) / lanes), panels((vectors + wide - 1) / wide) {}

  std::int64_t begin(std::int64_t panel) const {
    return (panel * (vectors / panels) + std::min(panel, vectors % panels)) * lanes;
  }
  std::int64_t width(std::int64_t panel) const { return begin(panel + 1) - begin(panel); }

  std::int64_t lanes;
  std::int64_t vectors;
  std::int64_t panels;
};

// The right factor, packed by panels.
template <typename T>
struct Factor {
  const T* data = nullptr;
  std::int64_t terms = 0;  // rows
  std::int64_t columns = 0;

  // Rows of a panel from `first` on, within a tile; their distance is the panel's width.
  const T* tile(std::int64_t first, const Panelling& by, std::int64_t panel) const {
    return data + first * by.vectors * by.lanes + by.begin(panel) * std::min(kDepth, terms - first);
  }
};

// A matrix packed by panels: tile after tile of kDepth rows, and panel after panel within a tile, so that the inner
// loop touches few pages and the rows of a panel don't compete for a few sets of the cache.
template <typename T>
class Packed {
 public:
  // Packs the matrix itself, or its transpose.
  static Packed straight(Rows<T> source, std::int64_t rows, std::int64_t columns, int threads);
  static Packed transposed(Rows<T> source, std::int64_t rows, std::int64_t columns, int threads);
  void negate();

  // Room for this many rows and columns, to be packed repeatedly.
  Packed(std::int64_t terms, std::int64_t columns);
  void pack(Rows<T> source, std::int64_t rows, int threads);
  void pack(Rows<T> source, std::int64_t rows, std::int64_t columns);
  // Packs these rows and columns of a square matrix.
  void pack_part(Rows<T> source, const std::int32_t* index, std::int64_t size);

  Factor<T> factor() const { return {buffer_.data(), terms_, columns_}; }
  bool finite() const { return finite_; }  // only after straight and transposed

 private:
  T* tile(std::int64_t first_term, std::int64_t panel);
  template <typename Copy>
  void pack_rows(std::int64_t begin, std::int64_t end, const Copy& copy);

  std::int64_t terms_;
  std::int64_t columns_;
  Panelling by_;
  Buffer<T> buffer_;
  bool finite_ = false;
};

// The nonzero coefficients of a block, and the groups of rows in which they are multiplied: scratch of `multiply`. Rows
// are grouped within units of six, by the unit's density alone, so that a row's result does not depend on the
// distribution of rows over threads, as long as threads get whole units.
class Supports {
 public:
  static constexpr std::int64_t kUnit = kDenseRows;

  explicit Supports(std::int64_t rows);

  template <typename T>
  void find(const Kernels<T>& k, Rows<T> coefficients, std::int64_t rows, std::int64_t terms, Zeros zeros);

  int rows_per_group(std::int64_t unit) const { return groups_[static_cast<std::size_t>(unit)]; }
  // The group that starts with this row of the block.
  const std::int32_t* index(std::int64_t row) const;
  const std::int32_t* bounds(std::int64_t row) const;
  std::int64_t terms(std::int64_t row) const { return terms_[static_cast<std::size_t>(row / 2)]; }

 private:
  template <typename T>
  std::int64_t plain(const Kernels<T>& k, Rows<T> coefficients, std::int64_t begin, std::int64_t end,
                     std::int64_t terms, int rows_per_group);
  void all_rows(std::int64_t begin, std::int64_t end, std::int64_t terms);
  template <typename T>
  void by_pattern(const Kernels<T>& k, Rows<T> coefficients, std::int64_t begin, std::int64_t end, std::int64_t terms);

  bool all_ = false;
  std::vector<int> groups_;
  Buffer<std::int32_t> index_;
  std::vector<std::int32_t> bounds_;
  std::vector<std::int64_t> terms_;
};

// out = finish(init + coefficients * factor)
template <typename T>
struct Product {
  Factor<T> factor;
  Rows<T> coefficients;  // (rows, factor.terms)
  std::int64_t rows = 0;
  Zeros zeros = Zeros::skip;
  Finish finish = Finish::store;
  Rows<T> init;      // null means zeros; from here on, rows are padded to whole vectors
  T* out = nullptr;  // may equal init
  std::int64_t out_stride = 0;
  const T* theta = nullptr;  // threshold, general: (columns,)
  Rows<T> prior;             // general; null means zeros
  const T* scale = nullptr;  // general: one value; null means 1
  bool positive = false;     // general
  Rows<T> codes;             // adjoint
  T* sum = nullptr;          // adjoint: += out; null if it is not wanted
  std::int64_t sum_stride = 0;
  // adjoint: (kThetaSums, d_theta_stride) -= sums over rows of sign(codes) out; null if they are not wanted. Groups of
  // rows take turns in the kThetaSums sums, so that the rounding errors of each stay small.
  T* d_theta = nullptr;
  std::int64_t d_theta_stride = 0;

  // The destination: rows of scratch from `first` on.
  void into(Matrix<T>& target, std::int64_t first) {
    out = target.row(first);
    out_stride = target.stride();
  }
};

// The product of a number of rows with a packed matrix; destination and finish are still open.
template <typename T>
Product<T> product_of(Rows<T> coefficients, const Packed<T>& matrix, std::int64_t rows) {
  Product<T> product;
  product.factor = matrix.factor();
  product.coefficients = coefficients;
  product.zeros = matrix.finite() ? Zeros::skip : Zeros::keep;
  product.rows = rows;
  return product;
}

template <typename T>
void multiply(const Product<T>& product, Supports& supports);

// Whether no element of these rows is infinite or NaN.
template <typename T>
bool all_finite(Rows<T> matrix, std::int64_t rows, std::int64_t columns);

// The share of nonzero elements, estimated from every sixteenth row.
template <typename T>
double density(Rows<T> matrix, std::int64_t rows, std::int64_t columns);

// A matrix in the caller's layout.
template <typename T>
struct Plain {
  Rows<T> data;
  std::int64_t rows;
  std::int64_t columns;
};

// out[r] = init[r] + matrix * vectors[r] for so few vectors that packing the matrix does not pay; the padding of the
// result's row becomes zero. A null init means zeros.
template <typename T>
void multiply_by_dots(const Plain<T>& matrix, Rows<T> vectors, Rows<T> init, std::int64_t count, T* out,
                      std::int64_t out_stride, int threads);

}  // namespace scvae::cpu

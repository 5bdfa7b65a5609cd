// The one matrix type and the one inner loop that the CPU kernels share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "lista.h"

namespace scvae::cpu {

inline constexpr std::size_t kAlignment = 64;

// How many elements a row of `columns` takes once it is padded to whole vectors.
template <typename T>
std::int64_t padded(std::int64_t columns) {
  constexpr std::int64_t lanes = kAlignment / sizeof(T);
  return (columns + lanes - 1) / lanes * lanes;
}

// Scratch: aligned rows, padded with zeros so that the inner loop has no remainder.
template <typename T>
class Matrix {
 public:
  Matrix(std::int64_t rows, std::int64_t columns)
      : columns_(columns), stride_(padded<T>(columns)), size_(rows * stride_), data_(allocate(size_)) {
    std::fill(data_, data_ + size_, T(0));
  }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;
  Matrix(Matrix&& other) noexcept
      : columns_(other.columns_), stride_(other.stride_), size_(other.size_), data_(other.data_) {
    other.data_ = nullptr;
  }
  ~Matrix() { ::operator delete(data_, std::align_val_t(kAlignment)); }

  T* row(std::int64_t i) { return data_ + i * stride_; }
  const T* row(std::int64_t i) const { return data_ + i * stride_; }
  const T* data() const { return data_; }
  std::int64_t columns() const { return columns_; }
  std::int64_t stride() const { return stride_; }

  void set_row(std::int64_t i, const T* source) { std::copy(source, source + columns_, row(i)); }
  void get_row(std::int64_t i, T* target) const { std::copy(row(i), row(i) + columns_, target); }

 private:
  static T* allocate(std::int64_t size) {
    const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(size, 1)) * sizeof(T);
    return static_cast<T*>(::operator new(bytes, std::align_val_t(kAlignment)));
  }

  std::int64_t columns_;
  std::int64_t stride_;
  std::int64_t size_;
  T* data_;
};

template <typename T>
Matrix<T> packed(Rows<T> source, std::int64_t rows, std::int64_t columns) {
  Matrix<T> out(rows, columns);
  for (std::int64_t i = 0; i < rows; ++i) out.set_row(i, source[i]);
  return out;
}

template <typename T>
Matrix<T> packed_transpose(Rows<T> source, std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t tile = kAlignment / sizeof(T);  // a cache line of both sides at a time
  Matrix<T> out(columns, rows);
  for (std::int64_t i0 = 0; i0 < rows; i0 += tile)
    for (std::int64_t j0 = 0; j0 < columns; j0 += tile)
      for (std::int64_t j = j0; j < std::min(j0 + tile, columns); ++j)
        for (std::int64_t i = i0; i < std::min(i0 + tile, rows); ++i) out.row(j)[i] = source[i][j];
  return out;
}

// The rows of a matrix that a linear combination takes, and their coefficients.
template <typename T>
struct Terms {
  std::vector<std::int32_t> row;
  std::vector<T> coefficient;

  void clear() {
    row.clear();
    coefficient.clear();
  }
  void reserve(std::int64_t size) {
    row.reserve(static_cast<std::size_t>(size));
    coefficient.reserve(static_cast<std::size_t>(size));
  }
  void push(std::int64_t index, T value) {
    row.push_back(static_cast<std::int32_t>(index));
    coefficient.push_back(value);
  }
};

// Skipping a zero coefficient is exact only while what it multiplies is finite: 0 * inf and 0 * NaN are NaN.
enum class Zeros { skip, keep };

template <typename T>
void gather(Terms<T>& terms, const T* values, std::int64_t size, Zeros zeros) {
  terms.clear();
  for (std::int64_t i = 0; i < size; ++i)
    if (values[i] != T(0) || zeros == Zeros::keep) terms.push(i, values[i]);
}

template <typename T>
bool all_finite(Rows<T> values, std::int64_t rows, std::int64_t columns);

// out += sum_i coefficient[i] * matrix.row(row[i]); `out` is an aligned row as long as the matrix's.
template <typename T>
void accumulate(T* out, const Matrix<T>& matrix, const Terms<T>& terms);

}  // namespace scvae::cpu

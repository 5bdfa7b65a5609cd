// Scratch: aligned memory, with a row distance that suits the caches.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "lista.h"

namespace scvae::cpu {

inline constexpr std::size_t kLine = 64;  // bytes in a cache line, and in the widest vector

// Number of elements in a row padded to whole vectors of any instruction set.
template <typename T>
constexpr std::int64_t padded(std::int64_t columns) {
  constexpr std::int64_t lanes = kLine / sizeof(T);
  return (columns + lanes - 1) / lanes * lanes;
}

// The same, to an odd number of cache lines: between the rows of a matrix, where with a power of two the same columns
// of all rows would compete for a few sets of the cache.
template <typename T>
constexpr std::int64_t row_distance(std::int64_t columns) {
  constexpr std::int64_t lanes = kLine / sizeof(T);
  return (padded<T>(columns) / lanes | 1) * lanes;
}

// Memory aligned to kLine, with its size.
struct Scratch {
  void* block = nullptr;
  std::size_t bytes = 0;
};

// At least this many bytes. Returned memory is kept for the next call, up to kMostScratchKept: getting it from the
// system again, page by page, would take up to a quarter of the time of a backward pass.
Scratch take_scratch(std::size_t bytes);
void give_scratch(Scratch scratch) noexcept;

// A sanitizer must see every allocation.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr std::size_t kMostScratchKept = 0;
#else
inline constexpr std::size_t kMostScratchKept = 32 << 20;
#endif

// Number of bytes that are kept now.
std::size_t scratch_kept();

// Uninitialised elements.
template <typename T>
class Buffer {
 public:
  explicit Buffer(std::int64_t size) : scratch_(take_scratch(bytes(size))), size_(size) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept : scratch_(other.scratch_), size_(other.size_) { other.scratch_.block = nullptr; }
  ~Buffer() {
    if (scratch_.block != nullptr) give_scratch(scratch_);
  }

  T* data() { return static_cast<T*>(scratch_.block); }
  const T* data() const { return static_cast<const T*>(scratch_.block); }
  std::int64_t size() const { return size_; }
  void zero() { std::fill(data(), data() + size_, T(0)); }

 private:
  static std::size_t bytes(std::int64_t size) {
    return static_cast<std::size_t>(std::max<std::int64_t>(size, 1)) * sizeof(T);
  }

  Scratch scratch_;
  std::int64_t size_;
};

// Lets a std::vector have memory aligned to kLine. A load across two cache lines takes twice as long, and has to wait
// until earlier stores to both have reached the cache.
template <typename T>
struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <typename U>
  Aligned(const Aligned<U>&) noexcept {}
  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(kLine))); }
  void deallocate(T* block, std::size_t) noexcept { ::operator delete(block, std::align_val_t(kLine)); }
  friend bool operator==(const Aligned&, const Aligned&) { return true; }
  friend bool operator!=(const Aligned&, const Aligned&) { return false; }
};

template <typename T>
using AlignedVector = std::vector<T, Aligned<T>>;

// A scratch matrix.
template <typename T>
class Matrix {
 public:
  Matrix(std::int64_t rows, std::int64_t columns)
      : columns_(columns), stride_(row_distance<T>(columns)), buffer_(rows * stride_) {}

  T* row(std::int64_t i) { return buffer_.data() + i * stride_; }
  const T* row(std::int64_t i) const { return buffer_.data() + i * stride_; }
  Rows<T> rows(std::int64_t first = 0) const { return {row(first), stride_}; }
  std::int64_t columns() const { return columns_; }
  std::int64_t stride() const { return stride_; }
  void zero() { buffer_.zero(); }
  void zero_row(std::int64_t i) { std::fill(row(i), row(i) + padded<T>(columns_), T(0)); }

  // Sets the padding beyond the columns to zero.
  void set_row(std::int64_t i, const T* source) {
    std::copy(source, source + columns_, row(i));
    std::fill(row(i) + columns_, row(i) + padded<T>(columns_), T(0));
  }
  void get_row(std::int64_t i, T* target) const { std::copy(row(i), row(i) + columns_, target); }

 private:
  std::int64_t columns_;
  std::int64_t stride_;
  Buffer<T> buffer_;
};

}  // namespace scvae::cpu

// Memory for arguments and results that reveals accesses outside its bounds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>

#include "lista.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SCVAE_TEST_ADDRESS_SANITIZER
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define SCVAE_TEST_ADDRESS_SANITIZER
#endif

namespace scvae::test {

// Elements on the heap between guards, the first one aligned to no more than an element. AddressSanitizer watches the
// end of the heap block itself, which is better than a guard because it also sees reads.
template <typename T>
class Block {
 public:
  explicit Block(std::int64_t size, T fill = T(0))
      : size_(size), memory_(new T[static_cast<std::size_t>(kFront + size + kBack)]) {
    std::fill(memory_.get(), end() + kBack, kGuard);
    std::fill(data(), end(), fill);
  }

  T* data() { return memory_.get() + kFront; }
  const T* data() const { return memory_.get() + kFront; }
  const T* end() const { return data() + size_; }
  T* end() { return data() + size_; }
  std::int64_t size() const { return size_; }
  T& operator[](std::int64_t i) { return data()[i]; }
  const T& operator[](std::int64_t i) const { return data()[i]; }

  bool guards_intact() const {
    const auto is_guard = [](T value) { return value == kGuard; };
    return std::all_of(memory_.get(), memory_.get() + kFront, is_guard) && std::all_of(end(), end() + kBack, is_guard);
  }

 private:
  static constexpr T kGuard = T(-12345);
  static constexpr std::int64_t kFront = 33;
#if defined(SCVAE_TEST_ADDRESS_SANITIZER)
  static constexpr std::int64_t kBack = 0;
#else
  static constexpr std::int64_t kBack = 64;
#endif

  std::int64_t size_;
  std::unique_ptr<T[]> memory_;
};

// A matrix whose rows are `gap` elements apart; the gaps are NaN, so that a result shows if they were read.
template <typename T>
class Strided {
 public:
  Strided(std::int64_t rows, std::int64_t columns, std::int64_t gap)
      : columns_(columns),
        stride_(columns + gap),
        block_(rows == 0 ? 0 : (rows - 1) * (columns + gap) + columns, std::numeric_limits<T>::quiet_NaN()) {}

  T* row(std::int64_t i) { return block_.data() + i * stride_; }
  std::int64_t columns() const { return columns_; }
  Rows<T> view() const { return {block_.data(), stride_}; }

 private:
  std::int64_t columns_;
  std::int64_t stride_;
  Block<T> block_;
};

}  // namespace scvae::test

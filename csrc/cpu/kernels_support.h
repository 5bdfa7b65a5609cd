// Finds nonzero coefficients: with AVX-512 by mask and compression, otherwise column by column without branches.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "cpu/kernels.h"
#include "cpu/vectors.h"

namespace scvae::cpu::SCVAE_ISA {
namespace {

#if defined(__AVX512F__)

[[gnu::always_inline]] inline unsigned not_zero(const float* p, unsigned live) {
  return _mm512_mask_cmp_ps_mask(static_cast<__mmask16>(live), _mm512_maskz_loadu_ps(static_cast<__mmask16>(live), p),
                                 _mm512_setzero_ps(), _CMP_NEQ_UQ);
}
[[gnu::always_inline]] inline unsigned not_zero(const double* p, unsigned live) {
  return _mm512_mask_cmp_pd_mask(static_cast<__mmask8>(live), _mm512_maskz_loadu_pd(static_cast<__mmask8>(live), p),
                                 _mm512_setzero_pd(), _CMP_NEQ_UQ);
}

// The first lanes of a vector, as bits, or all of them.
template <typename T>
[[gnu::always_inline]] inline unsigned first_lanes(std::int64_t count) {
  return (1u << (count < kLanes<T> ? count : kLanes<T>)) - 1;
}

template <typename T>
std::int64_t support(const T* rows, std::int64_t stride, int count, std::int64_t columns, std::int32_t* index) {
  constexpr std::int64_t lanes = kLanes<T>;
  const __m512i step = _mm512_set1_epi32(static_cast<int>(lanes));
  __m512i column = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  std::int64_t found = 0;
  for (std::int64_t j = 0; j < columns; j += lanes) {
    const unsigned live = first_lanes<T>(columns - j);
    unsigned any = 0;
    for (int r = 0; r < count; ++r) any |= not_zero(rows + r * stride + j, live);
    _mm512_storeu_si512(index + found, _mm512_maskz_compress_epi32(static_cast<__mmask16>(any), column));
    found += __builtin_popcount(any);
    column = _mm512_add_epi32(column, step);
  }
  return found;
}

template <typename T>
std::int64_t mark(const T* row, std::int64_t columns, std::uint64_t* mask) {
  constexpr std::int64_t lanes = kLanes<T>;
  std::int64_t found = 0;
  for (std::int64_t j = 0; j < columns; j += lanes) {
    const unsigned inside = first_lanes<T>(columns - j);
    const unsigned live = not_zero(row + j, inside);
    mask[j / 64] |= static_cast<std::uint64_t>(live) << (j % 64);
    found += __builtin_popcount(live);
  }
  return found;
}

template <typename T>
void patterns(const T* rows, std::int64_t stride, std::int64_t columns, std::int32_t* index, std::int32_t* bounds) {
  constexpr std::int64_t lanes = kLanes<T>;
  unsigned mask[kDepth / lanes][kMaxRows];
  for (std::int64_t j = 0; j < columns; j += lanes) {
    const unsigned live = first_lanes<T>(columns - j);
    for (int r = 0; r < kMaxRows; ++r) mask[j / lanes][r] = not_zero(rows + r * stride + j, live);
  }
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  std::int32_t found = 0;
  bounds[0] = 0;
  for (unsigned p = 1; p < kPatterns; ++p) {
    const unsigned f0 = p & 1 ? 0 : ~0u, f1 = p & 2 ? 0 : ~0u, f2 = p & 4 ? 0 : ~0u;
    bounds[p] = found;
    for (std::int64_t j = 0; j < columns; j += lanes) {
      const unsigned* m = mask[j / lanes];
      const auto chosen = static_cast<__mmask16>((m[0] ^ f0) & (m[1] ^ f1) & (m[2] ^ f2));
      const __m512i column = _mm512_add_epi32(first, _mm512_set1_epi32(static_cast<int>(j)));
      _mm512_storeu_si512(index + found, _mm512_maskz_compress_epi32(chosen, column));
      found += __builtin_popcount(chosen);
    }
  }
  bounds[kPatterns] = found;
}

#else

template <typename T>
void patterns(const T* rows, std::int64_t stride, std::int64_t columns, std::int32_t* index, std::int32_t* bounds) {
  std::int32_t count[kPatterns] = {};
  for (std::int64_t j = 0; j < columns; ++j) {
    int pattern = 0;
    for (int r = 0; r < kMaxRows; ++r) pattern |= (rows[r * stride + j] != T(0)) << r;
    ++count[pattern];
  }
  std::int32_t next[kPatterns];
  bounds[0] = next[0] = bounds[1] = next[1] = 0;
  for (int p = 1; p < kPatterns; ++p) {
    bounds[p + 1] = bounds[p] + count[p];
    if (p + 1 < kPatterns) next[p + 1] = bounds[p + 1];
  }
  for (std::int64_t j = 0; j < columns; ++j) {
    int pattern = 0;
    for (int r = 0; r < kMaxRows; ++r) pattern |= (rows[r * stride + j] != T(0)) << r;
    if (pattern != 0) index[next[pattern]++] = static_cast<std::int32_t>(j);
  }
}

template <typename T>
std::int64_t mark(const T* row, std::int64_t columns, std::uint64_t* mask) {
  std::int64_t found = 0;
  for (std::int64_t j = 0; j < columns; ++j) {
    const bool live = row[j] != T(0);
    mask[j / 64] |= static_cast<std::uint64_t>(live) << (j % 64);
    found += live;
  }
  return found;
}

template <typename T>
std::int64_t support(const T* rows, std::int64_t stride, int count, std::int64_t columns, std::int32_t* index) {
  std::int64_t found = 0;
  for (std::int64_t j = 0; j < columns; ++j) {
    bool any = false;
    for (int r = 0; r < count; ++r) any |= rows[r * stride + j] != T(0);
    index[found] = static_cast<std::int32_t>(j);
    found += any;
  }
  return found;
}

#endif

}  // namespace
}  // namespace scvae::cpu::SCVAE_ISA

// Vector operations for group normalisation: reading and writing elements of either type, SiLU. For the instruction
// set that kernels_impl.h, included before, was compiled for.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/norm_kernels.h"
#include "cpu/vectors.h"

namespace scvae::cpu::SCVAE_ISA {
namespace {

using Floats = Vector<float>;
typedef std::uint32_t Bits __attribute__((vector_size(SCVAE_VECTOR_BYTES)));
typedef std::uint16_t Halves __attribute__((vector_size(SCVAE_VECTOR_BYTES / 2), aligned(2), may_alias));

constexpr std::int64_t kFloats = kLanes<float>;

[[gnu::always_inline]] inline Floats all(float value) { return value - Floats{}; }

// Conversions between 16 and 32 bits per lane, and a < b ? a : b and a > b ? a : b, hence b if either is NaN. Without
// intrinsics, compilers need three instructions for the latter, and up to ten for the former.
#if defined(__AVX512F__)
constexpr __mmask16 kEvery = 0xffff;  // all lanes; gcc warns about undefined values in intrinsics without a mask

[[gnu::always_inline]] inline Bits widen(Halves v) {
  return reinterpret_cast<Bits>(_mm512_maskz_cvtepu16_epi32(kEvery, reinterpret_cast<__m256i>(v)));
}
[[gnu::always_inline]] inline Halves narrow(Bits v) {
  return reinterpret_cast<Halves>(_mm512_maskz_cvtepi32_epi16(kEvery, reinterpret_cast<__m512i>(v)));
}
[[gnu::always_inline]] inline Floats smaller(Floats a, Floats b) { return _mm512_maskz_min_ps(kEvery, a, b); }
[[gnu::always_inline]] inline Floats larger(Floats a, Floats b) { return _mm512_maskz_max_ps(kEvery, a, b); }
#elif defined(__AVX2__)
[[gnu::always_inline]] inline Bits widen(Halves v) {
  return reinterpret_cast<Bits>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(v)));
}
[[gnu::always_inline]] inline Halves narrow(Bits v) {
  const __m256i lanes = reinterpret_cast<__m256i>(v);
  return reinterpret_cast<Halves>(_mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1)));
}
[[gnu::always_inline]] inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
[[gnu::always_inline]] inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
#else
[[gnu::always_inline]] inline Bits widen(Halves v) { return __builtin_convertvector(v, Bits); }
[[gnu::always_inline]] inline Halves narrow(Bits v) { return __builtin_convertvector(v, Halves); }
[[gnu::always_inline]] inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
[[gnu::always_inline]] inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
#endif

[[gnu::always_inline]] inline Floats read(const float* p) { return load(p); }

[[gnu::always_inline]] inline Floats read(const BFloat16* p) {
  return reinterpret_cast<Floats>(widen(*reinterpret_cast<const Halves*>(p)) << 16);
}

[[gnu::always_inline]] inline void write(float* p, Floats v) { store<float>(p, v); }

// Rounds to nearest, ties to even; NaN becomes the NaN that torch writes.
[[gnu::always_inline]] inline void write(BFloat16* p, Floats v) {
  const Bits bits = reinterpret_cast<Bits>(v);
  const Bits rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const Bits nan = Bits{} + 0x7fc0u;
  *reinterpret_cast<Halves*>(p) = narrow(v == v ? rounded : nan);
}

// The first `count` elements, then `fill`.
template <typename X>
inline Floats read_some(const X* p, std::int64_t count, float fill) {
  X some[kFloats] = {};
  for (std::int64_t l = 0; l < count; ++l) some[l] = p[l];
  Floats v = read(some);
  for (std::int64_t l = count; l < kFloats; ++l) v[l] = fill;
  return v;
}

template <typename X>
inline void write_some(X* p, std::int64_t count, Floats v) {
  X some[kFloats];
  write(some, v);
  for (std::int64_t l = 0; l < count; ++l) p[l] = some[l];
}

inline double total(Floats v) {
  double sum = 0;
  for (std::int64_t l = 0; l < kFloats; ++l) sum += static_cast<double>(v[l]);
  return sum;
}

// 1 + exp(-t), infinite where exp overflows. With -t = n ln 2 + r, the polynomial (Cephes' expf) gives exp(r) with an
// error of one unit in the last place; 2^n is assembled from bits, as 2 * 2^(n - 1) because n = 128 must give infinity.
[[gnu::always_inline]] inline Floats one_plus_exp_of_minus(Floats t) {
  constexpr float integer_grid = 12582912.0f;  // 1.5 * 2^23: floats of this size are integers, with n in their low bits
  const Floats v = larger(all(-87.0f), smaller(all(89.0f), -t));
  const Floats on_grid = v * 1.44269504f + integer_grid;
  const Floats n = on_grid - integer_grid;
  const Floats r = v - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts: the first product is exact
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Floats half = p * reinterpret_cast<Floats>((reinterpret_cast<Bits>(on_grid) + 126u) << 23);
  return half * 2.0f + 1.0f;
}

[[gnu::always_inline]] inline Floats silu(Floats t) { return t / one_plus_exp_of_minus(t); }

[[gnu::always_inline]] inline Floats silu_derivative(Floats t) {
  const Floats sigmoid = 1.0f / one_plus_exp_of_minus(t);
  return sigmoid * (1.0f + t * (1.0f - sigmoid));
}

}  // namespace
}  // namespace scvae::cpu::SCVAE_ISA

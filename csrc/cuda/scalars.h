// Element types of the kernels and their conversions, the same on a card and on a processor.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace scvae::cuda {

struct BFloat16 {
  std::uint16_t bits;
};

struct Float16 {
  std::uint16_t bits;
};

template <typename To, typename From>
SCVAE_HOST_DEVICE To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "as many bits");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

SCVAE_HOST_DEVICE float to_float(float value) { return value; }
SCVAE_HOST_DEVICE float to_float(BFloat16 value) {
  return bits_as<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

#if defined(__CUDA_ARCH__)

__device__ __forceinline__ float to_float(Float16 value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}

template <typename E>
__device__ __forceinline__ E rounded(float value);
template <>
__device__ __forceinline__ float rounded<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ BFloat16 rounded<BFloat16>(float value) {
  BFloat16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}
template <>
__device__ __forceinline__ Float16 rounded<Float16>(float value) {
  Float16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}

#else

#if defined(__FLT16_MAX__)
inline float to_float(Float16 value) { return static_cast<float>(bits_as<_Float16>(value.bits)); }
#else
float to_float(Float16 value);  // nvcc's host pass: never called there
#endif

template <typename E>
E rounded(float value);
template <>
inline float rounded<float>(float value) {
  return value;
}
template <>
inline BFloat16 rounded<BFloat16>(float value) {  // to nearest, ties to even; a NaN stays one
  const std::uint32_t bits = bits_as<std::uint32_t>(value);
  if (value != value) return {static_cast<std::uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
#if defined(__FLT16_MAX__)
template <>
inline Float16 rounded<Float16>(float value) {
  return {bits_as<std::uint16_t>(static_cast<_Float16>(value))};
}
#endif

#endif

template <typename E>
inline constexpr bool kBFloat16 = false;
template <>
inline constexpr bool kBFloat16<BFloat16> = true;

// Two adjacent elements, in one access if the address allows it.
template <typename E>
struct alignas(2 * sizeof(E)) Pair {
  E first, second;
};

// Both, rounded.
template <typename E>
SCVAE_HOST_DEVICE Pair<E> rounded_pair(float first, float second) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(E) == 2) {
    std::uint32_t both;
    if constexpr (kBFloat16<E>)
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    else
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return bits_as<Pair<E>>(both);
  }
#endif
  return {rounded<E>(first), rounded<E>(second)};
}

enum class Kind : int { float32 = 0, bfloat16 = 1, float16 = 2 };

template <typename E>
constexpr Kind kKind = sizeof(E) == 4 ? Kind::float32 : Kind::bfloat16;
template <>
constexpr Kind kKind<Float16> = Kind::float16;

// Numbers of a type known only at run time.
struct Numbers {
  const void* data = nullptr;
  Kind kind = Kind::float32;

  SCVAE_HOST_DEVICE float operator[](std::int64_t index) const {
    if (kind == Kind::float32) return static_cast<const float*>(data)[index];
    if (kind == Kind::bfloat16) return to_float(static_cast<const BFloat16*>(data)[index]);
    return to_float(static_cast<const Float16*>(data)[index]);
  }
};

}  // namespace scvae::cuda

// Vectors of an instruction set: see kernels_impl.h for the macros.
#pragma once

#include <cstdint>

namespace scvae::cpu::SCVAE_ISA {
namespace {

template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(SCVAE_VECTOR_BYTES), aligned(4), may_alias));
  typedef std::int32_t integer __attribute__((vector_size(SCVAE_VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(SCVAE_VECTOR_BYTES), aligned(8), may_alias));
  typedef std::int64_t integer __attribute__((vector_size(SCVAE_VECTOR_BYTES)));
};

template <typename T>
constexpr std::int64_t kLanes = SCVAE_VECTOR_BYTES / sizeof(T);

template <typename T>
using Vector = typename VectorOf<T>::type;

}  // namespace
}  // namespace scvae::cpu::SCVAE_ISA

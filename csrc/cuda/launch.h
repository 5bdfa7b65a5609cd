// The launches. A plan comes from planned(); for the arguments see the kernels. Every function throws
// std::runtime_error with the kernel, shape and cause if a launch fails.
#pragma once

#include <cstdint>

#include "cuda/forward.h"
#include "cuda/pack.h"
#include "cuda/product.h"
#include "cuda/runtime.h"
#include "cuda/sums.h"

namespace scvae::cuda {

// For elements of type E; THREE: multiply float32 as three TF32 products, otherwise as one.
template <typename E, bool THREE>
struct Launcher {
  static void pack(const Where& where, const PackArguments& a);
  static void forward(const Where& where, const Plan& plan, const ForwardArguments& a);
  static void adjoint(const Where& where, const Plan& plan, const AdjointArguments& a);
  static void product(const Where& where, const Plan& plan, const ProductArguments& a);
  static void collect(const Where& where, const CollectArguments& a);
  static void outer(const Where& where, const OuterArguments& a);
};

extern template struct Launcher<BFloat16, false>;
extern template struct Launcher<Float16, false>;
extern template struct Launcher<float, true>;
extern template struct Launcher<float, false>;

#if defined(SCVAE_FAST_WITH_HOPPER)
inline constexpr bool kWithHopper = true;
#else
inline constexpr bool kWithHopper = false;
#endif

// The same with the kernels for Hopper cards, for 2-byte elements; defined if kWithHopper.
template <typename E>
struct HopperLauncher {
  static void forward(const Where& where, const Plan& plan, const ForwardArguments& a);
  static void adjoint(const Where& where, const Plan& plan, const AdjointArguments& a);
};

// The card's properties for plans. Throws std::runtime_error if there is no such device.
Card card_of(int device);

// Calls body(Launcher{}) for a kind of element.
template <typename Body>
void with_launcher(Kind kind, bool three, const Body& body) {
  if (kind == Kind::bfloat16) return body(Launcher<BFloat16, false>{});
  if (kind == Kind::float16) return body(Launcher<Float16, false>{});
  if (three) return body(Launcher<float, true>{});
  return body(Launcher<float, false>{});
}

}  // namespace scvae::cuda

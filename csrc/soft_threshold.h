// The soft threshold of one number.
#pragma once

#include <math.h>

#include "host_device.h"

namespace scvae {

// The larger of two numbers; NaN if one is NaN.
SCVAE_HOST_DEVICE float larger(float a, float b) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return a != a ? a : b > a || b != b ? b : a;
#endif
}

// h(u) = sign(u) max(|u| - theta, 0): 0 for u = 0 and every theta that is not NaN, including minus infinity; NaN if
// either is NaN, or if |u| and theta are both infinite.
SCVAE_HOST_DEVICE float soft_threshold(float u, float theta) {
  const float excess = larger(fabsf(u) - theta, 0.0f);
  return u == 0.0f && excess == excess ? 0.0f : copysignf(excess, u);
}

}  // namespace scvae

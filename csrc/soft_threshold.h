#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define SCVAE_HOST_DEVICE __host__ __device__
#else
#define SCVAE_HOST_DEVICE
#endif

namespace scvae {

// -1, 0 or 1; 0 for both zeros and for NaN.
template <typename T>
SCVAE_HOST_DEVICE inline T sign(T u) {
  return static_cast<T>(u > T(0)) - static_cast<T>(u < T(0));
}

// h_theta(u) = sign(u) * max(|u| - theta, 0), word for word: theta may be negative, and a NaN stays one.
template <typename T>
SCVAE_HOST_DEVICE inline T soft_threshold(T u, T theta) {
  const T excess = std::fabs(u) - theta;
  return sign(u) * (excess < T(0) ? T(0) : excess);
}

}  // namespace scvae

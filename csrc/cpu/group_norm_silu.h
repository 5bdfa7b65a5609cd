// y = silu(group_norm(x)): group normalisation, a weight and a bias per channel, SiLU. Nothing here knows torch.
#pragma once

#include <cstdint>

#include "cpu/norm_kernels.h"

namespace scvae::cpu {

// Before weight and bias, every group of every sample has mean 0 and variance 1. X is float or BFloat16; everything is
// computed in float, and rounded once.
template <typename X>
struct GroupNormProblem {
  std::int64_t samples = 0;
  std::int64_t channels = 0;   // a multiple of `groups`
  std::int64_t positions = 0;  // per channel: height times width
  std::int64_t groups = 1;
  double eps = 0;                 // added to the variance
  bool channels_last = false;     // needs kLastChannels channels or more
  const X* x = nullptr;           // (samples, channels, positions), or channels last; packed
  const float* weight = nullptr;  // (channels,)
  const float* bias = nullptr;    // (channels,)
};

// Gradients of a scalar with respect to the members of GroupNormProblem; null pointers are not written.
template <typename X>
struct GroupNormGradients {
  X* x = nullptr;
  float* weight = nullptr;
  float* bias = nullptr;
};

// y: like x; statistics: (2, samples, groups), the means, then 1 / sqrt(variance + eps). Runs on at most `threads`
// threads; as with every function here, the result does not depend on their number.
template <typename X>
void group_norm_silu_forward(const GroupNormProblem<X>& problem, X* y, float* statistics, int threads);

// statistics are those written by group_norm_silu_forward for the same problem; grad: like x.
template <typename X>
void group_norm_silu_backward(const GroupNormProblem<X>& problem, const X* grad, const float* statistics,
                              const GroupNormGradients<X>& out, int threads);

}  // namespace scvae::cpu

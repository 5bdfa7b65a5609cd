// group_norm_silu for x in channels_last layout, which group_norm_silu.cpp delegates to a separate file.
#pragma once

#include "cpu/group_norm_silu.h"
#include "cpu/memory.h"

namespace scvae::cpu {

// Number of elements that is worth a thread: fewer take no longer than waking it.
inline constexpr std::int64_t kElementsPerThread = 8192;

template <typename X>
void forward_channels_last(const GroupNormProblem<X>& problem, X* y, float* statistics, int threads);

template <typename X>
void backward_channels_last(const GroupNormProblem<X>& problem, const X* grad, const float* statistics,
                            const GroupNormGradients<X>& out, int threads);

// out[c] = the sum of parts[n][c] over all samples n
void sum_samples(const Buffer<double>& parts, std::int64_t samples, std::int64_t channels, float* out);

}  // namespace scvae::cpu

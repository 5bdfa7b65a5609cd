#include "cpu/group_norm_silu.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/group_norm_silu_last.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"

namespace scvae::cpu {
namespace {

// How a packed problem is divided into groups, each of which is a task.
template <typename X>
struct Split {
  explicit Split(const GroupNormProblem<X>& problem)
      : p(problem), channels(p.channels / p.groups), size(channels * p.positions), count(p.samples * p.groups) {}

  NormGroup<X> group(std::int64_t i) const {
    const std::int64_t first = channel(i);
    return {channels, p.positions, p.x + i * size, p.weight + first, p.bias + first};
  }
  std::int64_t channel(std::int64_t i) const { return i % p.groups * channels; }
  int team(int threads) const {
    return team_size(threads, std::min(count, (count * size + kElementsPerThread - 1) / kElementsPerThread));
  }

  const GroupNormProblem<X>& p;
  std::int64_t channels;  // per group
  std::int64_t size;      // elements per group
  std::int64_t count;     // groups in all samples
};

}  // namespace

template <typename X>
void group_norm_silu_forward(const GroupNormProblem<X>& p, X* y, float* statistics, int threads) {
  if (p.channels_last) return forward_channels_last(p, y, statistics, threads);
  const Split<X> split(p);
  const NormKernels<X>& kernels = norm_kernels<X>();
  parallel_for(split.count, split.team(threads), [&](std::int64_t i, int) {
    kernels.forward(split.group(i), p.eps, y + i * split.size, statistics + i, statistics + split.count + i);
  });
}

template <typename X>
void group_norm_silu_backward(const GroupNormProblem<X>& p, const X* grad, const float* statistics,
                              const GroupNormGradients<X>& out, int threads) {
  if (p.channels_last) return backward_channels_last(p, grad, statistics, out, threads);
  constexpr bool in_place = std::is_same_v<X, float>;
  const Split<X> split(p);
  const NormKernels<X>& kernels = norm_kernels<X>();
  const int team = split.team(threads);
  Buffer<double> d_weight(p.samples * p.channels), d_bias(p.samples * p.channels);
  std::vector<Buffer<float>> adjoints;
  for (int thread = 0; thread < team && !in_place && out.x != nullptr; ++thread) adjoints.emplace_back(split.size);
  parallel_for(split.count, team, [&](std::int64_t i, int thread) {
    X* d_x = out.x != nullptr ? out.x + i * split.size : nullptr;
    float* adjoint = nullptr;
    if constexpr (in_place)
      adjoint = d_x;
    else if (d_x != nullptr)
      adjoint = adjoints[static_cast<std::size_t>(thread)].data();
    const std::int64_t first = i * split.channels;
    kernels.backward(split.group(i), grad + i * split.size, statistics[i], statistics[split.count + i], adjoint, d_x,
                     d_weight.data() + first, d_bias.data() + first);
  });
  if (out.weight != nullptr) sum_samples(d_weight, p.samples, p.channels, out.weight);
  if (out.bias != nullptr) sum_samples(d_bias, p.samples, p.channels, out.bias);
}

template void group_norm_silu_forward(const GroupNormProblem<float>&, float*, float*, int);
template void group_norm_silu_forward(const GroupNormProblem<BFloat16>&, BFloat16*, float*, int);
template void group_norm_silu_backward(const GroupNormProblem<float>&, const float*, const float*,
                                       const GroupNormGradients<float>&, int);
template void group_norm_silu_backward(const GroupNormProblem<BFloat16>&, const BFloat16*, const float*,
                                       const GroupNormGradients<BFloat16>&, int);

}  // namespace scvae::cpu

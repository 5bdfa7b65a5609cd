// Here a group's channels are interleaved with others, so a task is not a group but a block of positions with all
// channels: sums for each block, sums of these for each sample, and then the elements block by block.
#include "cpu/group_norm_silu_last.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/parallel.h"

namespace scvae::cpu {
namespace {

template <typename X>
struct Blocked {
  Blocked(const GroupNormProblem<X>& problem, int threads)
      : p(problem),
        size(std::max<std::int64_t>(1, kElementsPerThread / p.channels)),
        per_sample((p.positions + size - 1) / size),
        count(p.samples * per_sample),
        team(team_size(threads, count)) {}

  std::int64_t sample(std::int64_t block) const { return block / per_sample; }
  std::int64_t positions(std::int64_t block) const { return std::min(size, p.positions - block % per_sample * size); }
  std::int64_t offset(std::int64_t block) const {
    return (sample(block) * p.positions + block % per_sample * size) * p.channels;
  }
  NormRows<X> rows(std::int64_t block) const { return {positions(block), p.channels, p.x + offset(block)}; }

  const GroupNormProblem<X>& p;
  std::int64_t size;  // positions per block: its elements fit into the first-level cache
  std::int64_t per_sample;
  std::int64_t count;
  int team;
};

// (samples, channels) for several quantities.
struct PerChannel {
  PerChannel(std::int64_t samples, std::int64_t channels_)
      : channels(channels_), first(samples * channels), second(samples * channels) {}

  float* of_first(std::int64_t sample) { return first.data() + sample * channels; }
  float* of_second(std::int64_t sample) { return second.data() + sample * channels; }

  std::int64_t channels;
  Buffer<float> first, second;
};

// The values that normalise a sample's channels: the statistics of their groups, repeated for each channel.
template <typename X>
void spread(const GroupNormProblem<X>& p, const float* statistics, std::int64_t sample, PerChannel& out) {
  const std::int64_t channels = p.channels / p.groups;
  const float* mean = statistics + sample * p.groups;
  const float* rstd = mean + p.samples * p.groups;
  for (std::int64_t c = 0; c < p.channels; ++c) {
    out.of_first(sample)[c] = mean[c / channels];
    out.of_second(sample)[c] = rstd[c / channels];
  }
}

template <typename X>
NormChannels channels_of(const GroupNormProblem<X>& p, PerChannel& normal, std::int64_t sample) {
  return {normal.of_first(sample), normal.of_second(sample), p.weight, p.bias};
}

// Mean and rstd of a sample's groups, from the sums and squares of its blocks' channels.
template <typename X>
void summarize(const Blocked<X>& blocked, const Buffer<double>& sums, const Buffer<double>& squares,
               std::int64_t sample, float* statistics) {
  const GroupNormProblem<X>& p = blocked.p;
  const std::int64_t channels = p.channels / p.groups;
  const double count = static_cast<double>(channels * p.positions);
  const std::int64_t begin = sample * blocked.per_sample, end = begin + blocked.per_sample;
  for (std::int64_t g = 0; g < p.groups; ++g) {
    double total = 0, deviation = 0;
    for (std::int64_t b = begin; b < end; ++b)
      for (std::int64_t c = g * channels; c < (g + 1) * channels; ++c) total += sums.data()[b * p.channels + c];
    const double mean = total / count;
    for (std::int64_t b = begin; b < end; ++b) {
      const double positions = static_cast<double>(blocked.positions(b));
      for (std::int64_t c = b * p.channels + g * channels; c < b * p.channels + (g + 1) * channels; ++c) {
        const double left = sums.data()[c] / positions - mean;
        deviation += squares.data()[c] + positions * left * left;
      }
    }
    const std::int64_t group = sample * p.groups + g;
    statistics[group] = static_cast<float>(mean);
    statistics[p.samples * p.groups + group] =
        static_cast<float>(1 / std::sqrt((deviation < 0 ? 0 : deviation) / count + p.eps));
  }
}

// Adds up the blocks of a sample.
template <typename X>
void sum_blocks(const Blocked<X>& blocked, const Buffer<double>& parts, std::int64_t sample, double* out) {
  const std::int64_t channels = blocked.p.channels;
  std::fill(out, out + channels, 0.0);
  for (std::int64_t b = sample * blocked.per_sample; b < (sample + 1) * blocked.per_sample; ++b)
    for (std::int64_t c = 0; c < channels; ++c) out[c] += parts.data()[b * channels + c];
}

// The terms that backward_last adds to each element of a sample: see norm_backward.
template <typename X>
void correction(const GroupNormProblem<X>& p, const float* statistics, std::int64_t sample, const double* d_weight,
                const double* d_bias, PerChannel& out) {
  const std::int64_t channels = p.channels / p.groups;
  const double count = static_cast<double>(channels * p.positions);
  for (std::int64_t g = 0; g < p.groups; ++g) {
    const double rstd = statistics[(p.samples + sample) * p.groups + g];
    double sum = 0, weighted = 0;
    for (std::int64_t c = g * channels; c < (g + 1) * channels; ++c) {
      sum += static_cast<double>(p.weight[c]) * d_bias[c];
      weighted += static_cast<double>(p.weight[c]) * d_weight[c];
    }
    for (std::int64_t c = g * channels; c < (g + 1) * channels; ++c) {
      out.of_first(sample)[c] = static_cast<float>(-rstd * sum / count);
      out.of_second(sample)[c] = static_cast<float>(-rstd * rstd * weighted / count);
    }
  }
}

}  // namespace

template <typename X>
void forward_channels_last(const GroupNormProblem<X>& p, X* y, float* statistics, int threads) {
  const Blocked<X> blocked(p, threads);
  const NormKernels<X>& kernels = norm_kernels<X>();
  Buffer<double> sums(blocked.count * p.channels), squares(blocked.count * p.channels);
  PerChannel normal(p.samples, p.channels);
  parallel_for(blocked.count, blocked.team, [&](std::int64_t b, int) {
    kernels.moments_last(blocked.rows(b), sums.data() + b * p.channels, squares.data() + b * p.channels);
  });
  for (std::int64_t sample = 0; sample < p.samples; ++sample) {
    summarize(blocked, sums, squares, sample, statistics);
    spread(p, statistics, sample, normal);
  }
  parallel_for(blocked.count, blocked.team, [&](std::int64_t b, int) {
    kernels.forward_last(blocked.rows(b), channels_of(p, normal, blocked.sample(b)), y + blocked.offset(b));
  });
}

template <typename X>
void backward_channels_last(const GroupNormProblem<X>& p, const X* grad, const float* statistics,
                            const GroupNormGradients<X>& out, int threads) {
  const Blocked<X> blocked(p, threads);
  const NormKernels<X>& kernels = norm_kernels<X>();
  Buffer<double> weight_parts(blocked.count * p.channels), bias_parts(blocked.count * p.channels);
  Buffer<double> d_weight(p.samples * p.channels), d_bias(p.samples * p.channels);
  PerChannel normal(p.samples, p.channels), corrections(p.samples, p.channels);
  for (std::int64_t sample = 0; sample < p.samples; ++sample) spread(p, statistics, sample, normal);
  parallel_for(blocked.count, blocked.team, [&](std::int64_t b, int) {
    kernels.sums_last(blocked.rows(b), channels_of(p, normal, blocked.sample(b)), grad + blocked.offset(b),
                      weight_parts.data() + b * p.channels, bias_parts.data() + b * p.channels);
  });
  for (std::int64_t sample = 0; sample < p.samples; ++sample) {
    double *of_weight = d_weight.data() + sample * p.channels, *of_bias = d_bias.data() + sample * p.channels;
    sum_blocks(blocked, weight_parts, sample, of_weight);
    sum_blocks(blocked, bias_parts, sample, of_bias);
    correction(p, statistics, sample, of_weight, of_bias, corrections);
  }
  if (out.weight != nullptr) sum_samples(d_weight, p.samples, p.channels, out.weight);
  if (out.bias != nullptr) sum_samples(d_bias, p.samples, p.channels, out.bias);
  if (out.x == nullptr) return;
  parallel_for(blocked.count, blocked.team, [&](std::int64_t b, int) {
    const std::int64_t sample = blocked.sample(b);
    kernels.backward_last(blocked.rows(b), channels_of(p, normal, sample), grad + blocked.offset(b),
                          corrections.of_first(sample), corrections.of_second(sample), out.x + blocked.offset(b));
  });
}

// out[c] = the sum of parts[n][c] over all samples n
void sum_samples(const Buffer<double>& parts, std::int64_t samples, std::int64_t channels, float* out) {
  std::vector<double> sum(static_cast<std::size_t>(channels));
  for (std::int64_t n = 0; n < samples; ++n)
    for (std::int64_t c = 0; c < channels; ++c) sum[c] += parts.data()[n * channels + c];
  std::copy(sum.begin(), sum.end(), out);
}

template void forward_channels_last(const GroupNormProblem<float>&, float*, float*, int);
template void forward_channels_last(const GroupNormProblem<BFloat16>&, BFloat16*, float*, int);
template void backward_channels_last(const GroupNormProblem<float>&, const float*, const float*,
                                     const GroupNormGradients<float>&, int);
template void backward_channels_last(const GroupNormProblem<BFloat16>&, const BFloat16*, const float*,
                                     const GroupNormGradients<BFloat16>&, int);

}  // namespace scvae::cpu

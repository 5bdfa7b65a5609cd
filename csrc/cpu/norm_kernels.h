// The inner loops of group normalisation and SiLU, with a set for each instruction set as in kernels.h. Its rule for
// includes applies here too.
#pragma once

#include <cstdint>

namespace scvae::cpu {

// The upper half of a float's bits.
enum class BFloat16 : std::uint16_t {};

// A group of one sample: its channels, one after another, with their positions; packed. X is float or BFloat16.
template <typename X>
struct NormGroup {
  std::int64_t channels;
  std::int64_t positions;
  const X* x;
  const float* weight;  // of these channels
  const float* bias;
};

// Adjacent positions of one sample in channels_last: all channels of the first, then those of the next, and so on.
template <typename X>
struct NormRows {
  std::int64_t positions;
  std::int64_t channels;  // at least kLastChannels
  const X* x;
};

// A vector of any instruction set, which the kernels read whole in channels_last.
inline constexpr std::int64_t kLastChannels = 16;

// Values per channel of a sample; mean and rstd are those of its group.
struct NormChannels {
  const float* mean;
  const float* rstd;
  const float* weight;
  const float* bias;
};

template <typename X>
struct NormKernels {
  void (*forward)(const NormGroup<X>& group, double eps, X* y, float* mean, float* rstd);
  // d_weight and d_bias receive this sample's contributions to the gradients of its channels. `adjoint` points to as
  // many floats as the group has elements, or to d_x itself if X is float; both are null if d_x is not wanted.
  void (*backward)(const NormGroup<X>& group, const X* grad, float mean, float rstd, float* adjoint, X* d_x,
                   double* d_weight, double* d_bias);

  // For each channel the sum, and the sum of squares after subtracting the mean of these rows.
  void (*moments_last)(const NormRows<X>& rows, double* sums, double* squares);
  void (*forward_last)(const NormRows<X>& rows, const NormChannels& of, X* y);
  // The contributions of these rows to the gradients of weight and bias.
  void (*sums_last)(const NormRows<X>& rows, const NormChannels& of, const X* grad, double* d_weight, double* d_bias);
  // d_x = rstd weight d_t + constant + slope (x - mean), where d_t is the adjoint of SiLU's argument.
  void (*backward_last)(const NormRows<X>& rows, const NormChannels& of, const X* grad, const float* constant,
                        const float* slope, X* d_x);
};

template <typename X>
const NormKernels<X>& norm_kernels();

}  // namespace scvae::cpu

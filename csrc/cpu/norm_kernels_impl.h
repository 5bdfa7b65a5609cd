// Group normalisation and SiLU, compiled for each instruction set like kernels_impl.h, which must be included before.
#include <cstdint>

#include "cpu/norm_kernels.h"
#include "cpu/norm_vectors.h"

namespace scvae::cpu::SCVAE_ISA {
namespace {

// Number of terms summed in float before the sum goes to a double, so that rounding errors don't grow with the picture.
constexpr std::int64_t kTerms = 4096;

// Sums of x - shift and of its squares.
struct Moments {
  double sum;
  double squares;
};

template <typename X>
Moments moments(const X* x, std::int64_t size, float shift) {
  constexpr int chains = 4;  // alternating sums, because an addition takes longer than a load
  Moments result = {0, 0};
  for (std::int64_t begin = 0; begin < size; begin += kTerms) {
    const X* p = x + begin;
    const std::int64_t count = size - begin < kTerms ? size - begin : kTerms;
    Floats sum[chains] = {}, squares[chains] = {};
    const auto add = [&](Floats v, int chain) __attribute__((always_inline)) {
      const Floats d = v - shift;
      sum[chain] += d;
      squares[chain] += d * d;
    };
    std::int64_t i = 0;
    for (; i + chains * kFloats <= count; i += chains * kFloats)
#pragma GCC unroll 4
      for (int chain = 0; chain < chains; ++chain) add(read(p + i + chain * kFloats), chain);
    for (; i + kFloats <= count; i += kFloats) add(read(p + i), 0);
    if (i < count) add(read_some(p + i, count - i, shift), 1);
    result.sum += total((sum[0] + sum[1]) + (sum[2] + sum[3]));
    result.squares += total((squares[0] + squares[1]) + (squares[2] + squares[3]));
  }
  return result;
}

// The mean of a few elements, about which sums are taken: a mean that is large compared with the deviations would
// cost them digits.
template <typename X>
float first_guess(const X* x, std::int64_t size) {
  const std::int64_t count = size < kFloats ? size : kFloats;
  return static_cast<float>(total(read_some(x, count, 0.0f)) / static_cast<double>(count));
}

template <typename X>
void normalize(const NormGroup<X>& group, double eps, float* mean, float* rstd) {
  const std::int64_t size = group.channels * group.positions;
  const double count = static_cast<double>(size);
  float shift = first_guess(group.x, size);
  double left = 0, variance = 0;
  for (int attempt = 0; attempt < 2; ++attempt) {
    const Moments about = moments(group.x, size, shift);
    left = about.sum / count;
    variance = about.squares / count - left * left;
    if (attempt == 1 || !(left * left > variance)) break;
    shift = static_cast<float>(shift + left);  // the guess was far off
  }
  *mean = static_cast<float>(shift + left);
  *rstd = static_cast<float>(1 / __builtin_sqrt((variance < 0 ? 0 : variance) + eps));
}

template <typename X>
void norm_forward(const NormGroup<X>& group, double eps, X* y, float* mean, float* rstd) {
  normalize(group, eps, mean, rstd);
  const float center = *mean;
  for (std::int64_t c = 0; c < group.channels; ++c) {
    const X* x = group.x + c * group.positions;
    X* out = y + c * group.positions;
    const float scale = group.weight[c] * *rstd, offset = group.bias[c];
    const auto activate = [=](Floats v) __attribute__((always_inline)) { return silu((v - center) * scale + offset); };
    std::int64_t i = 0;
    for (; i + kFloats <= group.positions; i += kFloats) write(out + i, activate(read(x + i)));
    if (const std::int64_t rest = group.positions - i; rest > 0)
      write_some(out + i, rest, activate(read_some(x + i, rest, center)));
  }
}

// A channel's contributions to the gradients of its bias and weight; the adjoint of its normalised and scaled elements
// is written unless the pointer is null.
template <typename X>
void channel_adjoint(const X* x, const X* grad, std::int64_t positions, float mean, float rstd, float weight,
                     float bias, float* adjoint, double* d_weight, double* d_bias) {
  *d_weight = *d_bias = 0;
  for (std::int64_t begin = 0; begin < positions; begin += kTerms) {
    const std::int64_t end = positions - begin < kTerms ? positions : begin + kTerms;
    Floats sum = {}, weighted = {};
    const auto add = [&](Floats v, Floats g) __attribute__((always_inline)) {
      const Floats normal = (v - mean) * rstd;
      const Floats d_t = g * silu_derivative(normal * weight + bias);
      sum += d_t;
      weighted += d_t * normal;
      return d_t;
    };
    std::int64_t i = begin;
    for (; i + kFloats <= end; i += kFloats) {
      const Floats d_t = add(read(x + i), read(grad + i));
      if (adjoint != nullptr) write(adjoint + i, d_t);
    }
    if (i < end) {
      const Floats d_t = add(read_some(x + i, end - i, mean), read_some(grad + i, end - i, 0.0f));
      if (adjoint != nullptr) write_some(adjoint + i, end - i, d_t);
    }
    *d_bias += total(sum);
    *d_weight += total(weighted);
  }
}

// d_x = rstd (weight d_t - the mean of weight d_t - x_normal times the mean of weight d_t x_normal), for t = weight
// x_normal + bias.
template <typename X>
void norm_backward(const NormGroup<X>& group, const X* grad, float mean, float rstd, float* adjoint, X* d_x,
                   double* d_weight, double* d_bias) {
  const std::int64_t positions = group.positions;
  double sum = 0, weighted = 0;
  for (std::int64_t c = 0; c < group.channels; ++c) {
    const std::int64_t first = c * positions;
    channel_adjoint(group.x + first, grad + first, positions, mean, rstd, group.weight[c], group.bias[c],
                    adjoint != nullptr ? adjoint + first : nullptr, d_weight + c, d_bias + c);
    sum += static_cast<double>(group.weight[c]) * d_bias[c];
    weighted += static_cast<double>(group.weight[c]) * d_weight[c];
  }
  if (d_x == nullptr) return;
  const double count = static_cast<double>(group.channels * positions);
  const float constant = static_cast<float>(-rstd * sum / count);
  const float slope = static_cast<float>(-static_cast<double>(rstd) * rstd * weighted / count);
  for (std::int64_t c = 0; c < group.channels; ++c) {
    const X* x = group.x + c * positions;
    const float* d_t = adjoint + c * positions;
    X* out = d_x + c * positions;
    const float scale = group.weight[c] * rstd;
    const auto finish = [=](Floats v, Floats d)
                            __attribute__((always_inline)) { return d * scale + ((v - mean) * slope + constant); };
    std::int64_t i = 0;
    for (; i + kFloats <= positions; i += kFloats) write(out + i, finish(read(x + i), read(d_t + i)));
    if (const std::int64_t rest = positions - i; rest > 0)
      write_some(out + i, rest, finish(read_some(x + i, rest, mean), read_some(d_t + i, rest, 0.0f)));
  }
}

// In channels_last all channels of a position are adjacent. Calls body(c) with the first channel of each vector; the
// last one overlaps the one before if lanes don't divide the channels, and writes the same values again.
template <typename Body>
[[gnu::always_inline]] inline void each_vector(std::int64_t channels, const Body& body) {
  for (std::int64_t c = 0; c < channels; c += kFloats) body(c + kFloats <= channels ? c : channels - kFloats);
}

// For a vector of channels. Returns whether the guess, which is subtracted before summing, was close enough to their
// means; otherwise replaces it by them.
template <typename X>
bool moments_about(const X* x, std::int64_t positions, std::int64_t stride, Floats& guess, double* sums,
                   double* squares) {
  const double count = static_cast<double>(positions);
  Floats sum[2] = {}, square[2] = {};
  const auto add = [&](std::int64_t i, int chain) __attribute__((always_inline)) {
    const Floats d = read(x + i * stride) - guess;
    sum[chain] += d;
    square[chain] += d * d;
  };
  std::int64_t i = 0;
  for (; i + 2 <= positions; i += 2) {
    add(i, 0);
    add(i + 1, 1);
  }
  if (i < positions) add(i, 0);
  const Floats s = sum[0] + sum[1], q = square[0] + square[1];
  bool near = true;
  for (std::int64_t l = 0; l < kFloats; ++l) {
    const double left = static_cast<double>(s[l]);
    sums[l] = count * static_cast<double>(guess[l]) + left;
    squares[l] = static_cast<double>(q[l]) - left * left / count;
    near &= !(left * left > count * squares[l]);
  }
  if (!near) guess += s / static_cast<float>(positions);
  return near;
}

template <typename X>
void moments_last(const NormRows<X>& rows, double* sums, double* squares) {
  const std::int64_t few = rows.positions < 16 ? rows.positions : 16;
  each_vector(rows.channels, [&](std::int64_t c) {
    Floats guess = {};
    for (std::int64_t i = 0; i < few; ++i) guess += read(rows.x + i * rows.channels + c);
    guess /= static_cast<float>(few);
    for (int attempt = 0; attempt < 2; ++attempt)
      if (moments_about(rows.x + c, rows.positions, rows.channels, guess, sums + c, squares + c)) break;
  });
}

template <typename X>
void forward_last(const NormRows<X>& rows, const NormChannels& of, X* y) {
  each_vector(rows.channels, [&](std::int64_t c) {
    const Floats mean = read(of.mean + c), scale = read(of.rstd + c) * read(of.weight + c), bias = read(of.bias + c);
    for (std::int64_t i = c; i < rows.positions * rows.channels; i += rows.channels)
      write(y + i, silu((read(rows.x + i) - mean) * scale + bias));
  });
}

template <typename X>
void sums_last(const NormRows<X>& rows, const NormChannels& of, const X* grad, double* d_weight, double* d_bias) {
  each_vector(rows.channels, [&](std::int64_t c) {
    const Floats mean = read(of.mean + c), rstd = read(of.rstd + c);
    const Floats weight = read(of.weight + c), bias = read(of.bias + c);
    Floats sum = {}, weighted = {};
    for (std::int64_t i = c; i < rows.positions * rows.channels; i += rows.channels) {
      const Floats normal = (read(rows.x + i) - mean) * rstd;
      const Floats d_t = read(grad + i) * silu_derivative(normal * weight + bias);
      sum += d_t;
      weighted += d_t * normal;
    }
    for (std::int64_t l = 0; l < kFloats; ++l) {
      d_bias[c + l] = static_cast<double>(sum[l]);
      d_weight[c + l] = static_cast<double>(weighted[l]);
    }
  });
}

// The derivative of SiLU is recomputed: keeping it from sums_last would take more memory than x.
template <typename X>
void backward_last(const NormRows<X>& rows, const NormChannels& of, const X* grad, const float* constant,
                   const float* slope, X* d_x) {
  each_vector(rows.channels, [&](std::int64_t c) {
    const Floats mean = read(of.mean + c), weight = read(of.weight + c), bias = read(of.bias + c);
    const Floats scale = read(of.rstd + c) * weight, at_mean = read(constant + c), per_unit = read(slope + c);
    for (std::int64_t i = c; i < rows.positions * rows.channels; i += rows.channels) {
      const Floats centered = read(rows.x + i) - mean;
      const Floats d_t = read(grad + i) * silu_derivative(centered * scale + bias);
      write(d_x + i, d_t * scale + (centered * per_unit + at_mean));
    }
  });
}

template <typename X>
NormKernels<X> norm_table() {
  return {&norm_forward<X>, &norm_backward<X>, &moments_last<X>, &forward_last<X>, &sums_last<X>, &backward_last<X>};
}

}  // namespace

NormKernels<float> float_norm_kernels() { return norm_table<float>(); }
NormKernels<BFloat16> bfloat16_norm_kernels() { return norm_table<BFloat16>(); }

}  // namespace scvae::cpu::SCVAE_ISA

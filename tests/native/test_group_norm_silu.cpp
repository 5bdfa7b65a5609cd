// group_norm_silu, forward and backward, in both layouts and both types of elements.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "block.h"
#include "check.h"
#include "cpu/group_norm_silu.h"
#include "inputs.h"
#include "suites.h"

namespace scvae::test {
namespace {

using cpu::BFloat16;

double value(float x) { return x; }
double value(BFloat16 x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

void set(float& x, double value) { x = static_cast<float>(value); }
void set(BFloat16& x, double value) {  // a value that needs no rounding
  const float wide = static_cast<float>(value);
  std::uint32_t bits;
  std::memcpy(&bits, &wide, sizeof bits);
  x = static_cast<BFloat16>(bits >> 16);
}

struct NormCase {
  std::int64_t samples, channels, positions, groups;
  bool channels_last;

  std::int64_t size() const { return samples * channels * positions; }
  std::int64_t at(std::int64_t n, std::int64_t c, std::int64_t i) const {
    return channels_last ? (n * positions + i) * channels + c : (n * channels + c) * positions + i;
  }
  std::string name() const {
    return "group_norm_silu N=" + std::to_string(samples) + " C=" + std::to_string(channels) +
           " positions=" + std::to_string(positions) + " groups=" + std::to_string(groups) +
           (channels_last ? " channels last" : "");
  }
};

template <typename X>
struct NormInputs {
  explicit NormInputs(const NormCase& c_) : c(c_), x(c.size()), grad(c.size()), weight(c.channels), bias(c.channels) {
    Draw draw(Numbers::quarters, static_cast<std::uint64_t>(c.size() + c.groups));
    for (std::int64_t i = 0; i < c.size(); ++i) {
      set(x[i], draw());
      set(grad[i], draw());
    }
    for (std::int64_t i = 0; i < c.channels; ++i) {
      weight[i] = static_cast<float>(draw());
      bias[i] = static_cast<float>(draw());
    }
  }

  cpu::GroupNormProblem<X> problem() const {
    return {c.samples, c.channels, c.positions, c.groups, kEps, c.channels_last, x.data(), weight.data(), bias.data()};
  }

  static constexpr double kEps = 1e-6;
  NormCase c;
  Block<X> x, grad;
  Block<float> weight, bias;
};

struct NormReference {
  std::vector<double> y, statistics, d_x, d_weight, d_bias;
};

// One group of one sample.
template <typename X>
void differentiate(const NormInputs<X>& in, std::int64_t n, std::int64_t g, NormReference& out) {
  const NormCase& c = in.c;
  const std::int64_t width = c.channels / c.groups, first = g * width;
  const double count = static_cast<double>(width * c.positions);
  const auto each = [&](const auto& body) {
    for (std::int64_t k = first; k < first + width; ++k)
      for (std::int64_t i = 0; i < c.positions; ++i) body(k, c.at(n, k, i));
  };
  double mean = 0, variance = 0, sum = 0, weighted = 0;
  each([&](std::int64_t, std::int64_t i) { mean += value(in.x[i]); });
  mean /= count;
  each([&](std::int64_t, std::int64_t i) { variance += (value(in.x[i]) - mean) * (value(in.x[i]) - mean); });
  const double rstd = 1 / std::sqrt(variance / count + in.kEps);
  out.statistics[n * c.groups + g] = mean;
  out.statistics[(c.samples + n) * c.groups + g] = rstd;
  each([&](std::int64_t k, std::int64_t i) {
    const double normal = (value(in.x[i]) - mean) * rstd, t = normal * in.weight[k] + in.bias[k];
    const double sigmoid = 1 / (1 + std::exp(-t));
    const double d_t = value(in.grad[i]) * sigmoid * (1 + t * (1 - sigmoid));
    out.y[i] = t * sigmoid;
    out.d_x[i] = d_t * in.weight[k];
    out.d_weight[k] += d_t * normal;
    out.d_bias[k] += d_t;
    sum += out.d_x[i] / count;
    weighted += out.d_x[i] * normal / count;
  });
  each([&](std::int64_t, std::int64_t i) {
    out.d_x[i] = rstd * (out.d_x[i] - sum - (value(in.x[i]) - mean) * rstd * weighted);
  });
}

template <typename X>
NormReference reference(const NormInputs<X>& in) {
  const NormCase& c = in.c;
  const auto zeros = [](std::int64_t size) { return std::vector<double>(static_cast<std::size_t>(size)); };
  NormReference out{zeros(c.size()), zeros(2 * c.samples * c.groups), zeros(c.size()), zeros(c.channels),
                    zeros(c.channels)};
  for (std::int64_t n = 0; n < c.samples; ++n)
    for (std::int64_t g = 0; g < c.groups; ++g) differentiate(in, n, g, out);
  return out;
}

template <typename X>
struct NormResults {
  NormResults(const NormInputs<X>& in, bool want_x, bool want_parameters, int threads)
      : y(in.c.size(), X(1)),
        d_x(in.c.size(), X(1)),
        statistics(2 * in.c.samples * in.c.groups, nan),
        d_weight(in.c.channels, nan),
        d_bias(in.c.channels, nan) {
    cpu::group_norm_silu_forward(in.problem(), y.data(), statistics.data(), threads);
    const cpu::GroupNormGradients<X> out{want_x ? d_x.data() : nullptr, want_parameters ? d_weight.data() : nullptr,
                                         want_parameters ? d_bias.data() : nullptr};
    cpu::group_norm_silu_backward(in.problem(), in.grad.data(), statistics.data(), out, threads);
  }

  bool same_bits(const NormResults& other) const {
    const auto same = [](const auto& a, const auto& b) {
      return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(a[0])) == 0;
    };
    return same(y, other.y) && same(d_x, other.d_x) && same(statistics, other.statistics) &&
           same(d_weight, other.d_weight) && same(d_bias, other.d_bias);
  }
  bool guards_intact() const {
    return y.guards_intact() && d_x.guards_intact() && statistics.guards_intact() && d_weight.guards_intact() &&
           d_bias.guards_intact();
  }

  static constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  Block<X> y, d_x;
  Block<float> statistics, d_weight, d_bias;
};

template <typename X>
std::vector<float> widened(const Block<X>& block) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < block.size(); ++i) out.push_back(static_cast<float>(value(block[i])));
  return out;
}

// Exact sums are of no use here, because exp is in everything.
template <typename X>
void check(const NormCase& c) {
  constexpr double rounding = 1e-5, stored = std::is_same_v<X, float> ? rounding : 1.0 / 256;
  const std::string what = (std::is_same_v<X, float> ? "float " : "bfloat16 ") + c.name();
  const NormInputs<X> inputs(c);
  const NormReference expected = reference(inputs);
  for (const bool want_x : {false, true})
    for (const bool want_parameters : {false, true}) {
      const NormResults<X> found(inputs, want_x, want_parameters, 1);
      expect_close(widened(found.y).data(), expected.y, stored, what + ": y");
      expect_close(found.statistics.data(), expected.statistics, rounding, what + ": statistics");
      if (want_x) expect_close(widened(found.d_x).data(), expected.d_x, stored, what + ": d_x");
      if (want_parameters) {
        expect_close(found.d_weight.data(), expected.d_weight, rounding, what + ": d_weight");
        expect_close(found.d_bias.data(), expected.d_bias, rounding, what + ": d_bias");
      }
      expect(found.guards_intact(), what + ": wrote outside of a result");
      expect(NormResults<X>(inputs, want_x, want_parameters, 3).same_bits(found),
             what + ": 3 threads give what 1 gives");
    }
}

}  // namespace

void test_group_norm_silu() {
  for (const bool last : {false, true})
    for (const NormCase& c : {NormCase{0, 16, 4, 2, last},
                              {2, 16, 0, 2, last},
                              {2, 16, 3, 4, last},
                              {1, 17, 5, 17, last},
                              {3, 18, 35, 3, last},
                              {2, 33, 64, 1, last},
                              {2, 16, 1111, 4, last},
                              {1, 24, 4099, 2, last}}) {
      check<float>(c);
      check<BFloat16>(c);
    }
  for (const NormCase& c : {NormCase{2, 7, 1, 1, false}, {2, 3, 5, 3, false}, {5, 6, 31, 2, false}}) {
    check<float>(c);
    check<BFloat16>(c);
  }
}

}  // namespace scvae::test

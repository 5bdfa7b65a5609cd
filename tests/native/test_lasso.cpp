// lasso: the optimality conditions in double, for all shapes, starts and numbers of threads.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "block.h"
#include "check.h"
#include "cpu/lasso.h"
#include "cpu/memory.h"
#include "inputs.h"
#include "suites.h"

namespace scvae::test {
namespace {

struct LassoCase {
  std::int64_t rows, atoms, features;
  bool gram, positive, each, warm;  // `each`: every row has its own weights

  std::string name() const {
    return "lasso M=" + std::to_string(rows) + " K=" + std::to_string(atoms) + " n=" + std::to_string(features) +
           (gram ? " gram" : "") + (positive ? " positive" : "") + (each ? " weights of each row" : "") +
           (warm ? " warm" : "");
  }
};

template <typename T>
struct LassoInputs {
  explicit LassoInputs(const LassoCase& given)
      : c(given),
        columns(cpu::padded<float>(c.atoms)),
        x(c.rows, c.features, 2),
        z0(c.rows, c.atoms, 1),
        alpha(c.each ? c.rows : 1, c.atoms, 1),
        D(c.features * columns) {
    Draw draw(Numbers::gaussian, static_cast<std::uint64_t>(c.rows * 1009 + c.atoms * 31 + c.features));
    fill(x, c.rows, draw);
    fill(z0, c.rows, draw);
    for (std::int64_t m = 0; m < (c.each ? c.rows : 1); ++m)
      for (std::int64_t k = 0; k < c.atoms; ++k) alpha.row(m)[k] = static_cast<T>(0.2 + 0.1 * std::fabs(draw()));
    for (std::int64_t k = 0; k < c.atoms; ++k) {
      double square = 0;
      for (std::int64_t f = 0; f < c.features; ++f) {
        const double value = draw();
        D[f * columns + k] = static_cast<T>(value);
        square += value * value;
      }
      for (std::int64_t f = 0; f < c.features; ++f) D[f * columns + k] /= static_cast<T>(std::sqrt(square));
    }
    if (c.atoms > 2)  // a duplicate
      for (std::int64_t f = 0; f < c.features; ++f) D[f * columns + 2] = D[f * columns];
  }

  cpu::LassoProblem<T> problem(double tolerance) const {
    cpu::LassoProblem<T> p;
    p.rows = c.rows, p.atoms = c.atoms, p.features = c.features;
    p.x = x.view();
    p.D = {D.data(), columns};
    p.gram = c.gram;
    p.alpha = {alpha.view().data, c.each ? alpha.view().stride : 0};
    if (c.warm) p.z0 = z0.view();
    p.positive = c.positive, p.tolerance = tolerance, p.sweeps = 20000;
    return p;
  }

  // The largest violation of the optimality conditions, in units of alpha.
  double violation(const T* codes) const {
    double largest = 0;
    for (std::int64_t m = 0; m < c.rows; ++m) {
      const T* z = codes + m * c.atoms;
      std::vector<double> r(static_cast<std::size_t>(c.features));
      for (std::int64_t f = 0; f < c.features; ++f) {
        double sum = static_cast<double>(x.view()[m][f]);
        for (std::int64_t k = 0; k < c.atoms; ++k)
          sum -= static_cast<double>(D[f * columns + k]) * static_cast<double>(z[k]);
        r[static_cast<std::size_t>(f)] = sum;
      }
      for (std::int64_t k = 0; k < c.atoms; ++k) {
        double correlation = 0;
        for (std::int64_t f = 0; f < c.features; ++f)
          correlation += static_cast<double>(D[f * columns + k]) * r[static_cast<std::size_t>(f)];
        const double weight = static_cast<double>(alpha.view()[c.each ? m : 0][k]);
        const double reached = (c.positive ? correlation : std::fabs(correlation)) - weight;
        const double found = z[k] == T(0) ? reached : std::fabs(correlation - (z[k] > T(0) ? weight : -weight));
        largest = std::max(largest, found / weight);
        if (c.positive && z[k] < T(0)) largest = 1e9;
      }
    }
    return largest;
  }

  LassoCase c;
  std::int64_t columns;
  Strided<T> x, z0, alpha;
  Block<T> D;
};

template <typename T>
void check(const LassoCase& c) {
  const bool single = std::is_same_v<T, float>;
  const double tolerance = single ? 1e-5 : 1e-13;
  const std::string what = (single ? "float " : "double ") + c.name();
  const LassoInputs<T> inputs(c);
  Block<T> codes(c.rows * c.atoms, T(7)), again(c.rows * c.atoms, T(7));
  Block<double> gap(c.rows, -1), gap_again(c.rows, -1);
  expect(cpu::lasso(inputs.problem(tolerance), codes.data(), gap.data(), 1), what + ": refused");
  cpu::lasso(inputs.problem(tolerance), again.data(), gap_again.data(), 3);
  for (std::int64_t m = 0; m < c.rows; ++m)
    expect(gap[m] >= 0 && gap[m] <= tolerance, what + ": a gap of " + std::to_string(gap[m]));
  const double violation = inputs.violation(codes.data());
  expect(violation <= (single ? 2e-2 : 1e-5), what + ": conditions violated by " + std::to_string(violation));
  expect(codes.guards_intact() && gap.guards_intact(), what + ": wrote outside of a result");
  const auto bytes = static_cast<std::size_t>(codes.size()) * sizeof(T);
  expect(std::memcmp(codes.data(), again.data(), bytes) == 0, what + ": 3 threads give what 1 gives");
}

// A column of zeros, or a number that is not finite: refused, whatever the size of the other numbers.
template <typename T>
void check_refusals() {
  for (const T wrong : {T(0), std::numeric_limits<T>::infinity(), std::numeric_limits<T>::quiet_NaN()})
    for (const T size : {T(1), std::numeric_limits<T>::max() / 4, std::numeric_limits<T>::min()}) {
      LassoInputs<T> inputs({2, 5, 3, true, false, false, false});
      for (std::int64_t i = 0; i < inputs.D.size(); ++i) inputs.D[i] *= size;
      for (std::int64_t f = 0; f < 3; ++f) inputs.D[f * inputs.columns + 4] = wrong;
      Block<T> codes(2 * 5, T(7));
      Block<double> gap(2, -1);
      expect(!cpu::lasso(inputs.problem(1e-4), codes.data(), gap.data(), 1), "lasso: a column is no atom");
      expect(codes[0] == T(7) && gap[0] == -1, "lasso: a refusal wrote results");
    }
}

}  // namespace

void test_lasso() {
  check_refusals<float>();
  check_refusals<double>();
  struct Shape {
    std::int64_t rows, atoms, features;
  };
  for (const Shape s : {Shape{0, 5, 3}, {1, 1, 1}, {7, 3, 2}, {5, 33, 20}, {60, 65, 17}, {3, 130, 40}, {9, 20, 515}})
    for (const bool gram : {false, true})
      for (const bool positive : {false, true})
        for (const bool each : {false, true})
          for (const bool warm : {false, true}) {
            const LassoCase c{s.rows, s.atoms, s.features, gram, positive, each, warm};
            check<float>(c);
            check<double>(c);
          }
}

}  // namespace scvae::test

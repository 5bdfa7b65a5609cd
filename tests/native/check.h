// Expectations: a failure is printed, and makes the program fail at its end.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace scvae::test {

inline int& failures() {
  static int count = 0;
  return count;
}

inline int& checks() {
  static int count = 0;
  return count;
}

inline void expect(bool holds, const std::string& what) {
  ++checks();
  if (holds) return;
  ++failures();
  std::cerr << "failed: " << what << "\n";
}

// Equal up to `tolerance` times the largest finite expected value; NaN equals NaN, and infinities must be exact.
// Expected values are rounded to T first: a tolerance of 0 requires the correctly rounded result.
template <typename T>
void expect_close(const T* found, const std::vector<double>& expected, double tolerance, const std::string& what) {
  double largest = 0;
  for (const double value : expected)
    if (std::isfinite(value)) largest = std::max(largest, std::fabs(value));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double wanted = static_cast<T>(expected[i]);
    const double got = found[i];
    const bool close = got == wanted || (std::isnan(got) && std::isnan(wanted)) ||
                       (std::isfinite(got) && std::fabs(got - wanted) <= tolerance * largest);
    if (close) continue;
    std::ostringstream message;
    message << std::setprecision(17) << what << ": element " << i << " of " << expected.size() << " is " << got
            << ", expected " << wanted;
    return expect(false, message.str());
  }
  expect(true, what);
}

}  // namespace scvae::test

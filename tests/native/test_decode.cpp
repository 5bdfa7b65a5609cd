// decode, forward and backward.
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "block.h"
#include "check.h"
#include "inputs.h"
#include "lista.h"
#include "reference.h"
#include "suites.h"

namespace scvae::test {
namespace {

template <typename T>
struct DecodeResults {
  DecodeResults(const DecodeInputs<T>& inputs, bool want_z, bool want_D, int threads)
      : x_hat(inputs.rows * inputs.features, nan),
        d_z(inputs.rows * inputs.atoms, nan),
        d_D(inputs.features * inputs.atoms, nan) {
    cpu::decode_forward(inputs.problem(), x_hat.data(), threads);
    cpu::decode_backward(inputs.problem(), inputs.grad.view(), want_z ? d_z.data() : nullptr,
                         want_D ? d_D.data() : nullptr, threads);
  }

  bool same_bits(const DecodeResults& other) const {
    const auto same = [](const Block<T>& a, const Block<T>& b) {
      return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
    };
    return same(x_hat, other.x_hat) && same(d_z, other.d_z) && same(d_D, other.d_D);
  }

  static constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  Block<T> x_hat, d_z, d_D;
};

template <typename T>
void check(const DecodeInputs<T>& inputs, double tolerance, const std::string& what) {
  const auto expected = decode_reference(inputs.problem(), inputs.grad.view());
  for (const bool want_z : {false, true})
    for (const bool want_D : {false, true}) {
      const DecodeResults<T> found(inputs, want_z, want_D, 1);
      expect_close(found.x_hat.data(), expected.x_hat, tolerance, what + ": x_hat");
      if (want_z) expect_close(found.d_z.data(), expected.d_z, tolerance, what + ": d_z");
      if (want_D) expect_close(found.d_D.data(), expected.d_D, tolerance, what + ": d_D");
      for (const Block<T>* block : {&found.x_hat, &found.d_z, &found.d_D})
        expect(block->guards_intact(), what + ": wrote outside of a result");
      expect(DecodeResults<T>(inputs, want_z, want_D, 3).same_bits(found), what + ": 3 threads give what 1 gives");
    }
}

template <typename T>
void check_not_finite(const DecodeCase& c) {
  const T infinity = std::numeric_limits<T>::infinity();
  for (const std::string place : {"z", "D", "grad"})
    for (const T value : {std::numeric_limits<T>::quiet_NaN(), infinity, -infinity}) {
      DecodeInputs<T> inputs(c);
      Strided<T>& matrix = place == "z" ? inputs.z : place == "D" ? inputs.D : inputs.grad;
      matrix.row(0)[matrix.columns() - 1] = value;
      check(inputs, 0, c.name() + " with " + std::to_string(value) + " in " + place);
    }
}

template <typename T>
void check_all() {
  const std::string type = std::is_same_v<T, float> ? "float " : "double ";
  struct Shape {
    std::int64_t rows, atoms, features;
  };
  for (const Shape shape : {Shape{0, 5, 3},
                            {1, 1, 1},
                            {2, 3, 17},
                            {3, 2, 1},
                            {5, 33, 31},
                            {17, 15, 64},
                            {97, 16, 65},
                            {200, 65, 5},
                            {97, 129, 33},
                            {5, 257, 127},
                            {300, 17, 16},
                            {3, 513, 130}})
    for (const double density : {0.0, 0.05, 0.5, 1.0})
      for (const std::int64_t gap : {0, 3}) {
        const DecodeCase c{shape.rows, shape.atoms, shape.features, Numbers::quarters, density, gap};
        check(DecodeInputs<T>(c), 0, type + c.name());
      }
  for (const double density : {0.1, 1.0}) {
    const DecodeCase c{97, 129, 65, Numbers::gaussian, density, 0};
    check(DecodeInputs<T>(c), std::is_same_v<T, double> ? 1e-14 : 4e-6, type + c.name());
  }
  check_not_finite<T>({17, 33, 15, Numbers::quarters, 0.1, 0});
  check_not_finite<T>({97, 65, 17, Numbers::quarters, 0.0, 2});
}

}  // namespace

void test_decode() {
  check_all<float>();
  check_all<double>();
}

}  // namespace scvae::test

// All results of lista for one problem, and their comparison.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "block.h"
#include "check.h"
#include "inputs.h"
#include "lista.h"
#include "reference.h"

namespace scvae::test {

// The requested gradients; a sum of these.
enum Wanted : unsigned { kB = 1, kS = 2, kTheta = 4, kGain = 8, kZ0 = 16 };

inline unsigned every_gradient(Start start) { return kB | kS | kTheta | (start == Start::z0 ? kZ0 : kGain); }

template <typename T>
std::string named(const ListaCase& c) {
  return (std::is_same_v<T, float> ? "float " : "double ") + c.name();
}

// Results are initialised with NaN, which reveals elements that were never written.
template <typename T>
struct ListaResults {
  ListaResults(const ListaInputs<T>& inputs, unsigned wanted, int threads)
      : wanted(wanted),
        z(inputs.rows * inputs.atoms, nan),
        d_b(inputs.rows * inputs.atoms, nan),
        d_S(inputs.atoms * inputs.atoms, nan),
        d_theta(inputs.theta.size(), nan),
        d_gain(1, nan),
        d_z0(inputs.rows * inputs.atoms, nan) {
    const auto problem = inputs.problem();
    cpu::lista_forward<T>(problem, {z.data()}, threads);
    const auto asked = [&](unsigned which, Block<T>& block) { return (wanted & which) != 0 ? block.data() : nullptr; };
    const ListaGradients<T> out{asked(kB, d_b), asked(kS, d_S), asked(kTheta, d_theta), asked(kGain, d_gain),
                                asked(kZ0, d_z0)};
    cpu::lista_backward<T>(problem, {z.data()}, inputs.grad.view(), out, threads);
  }

  void expect_equal_to(const ListaReference& expected, double tolerance, const std::string& what) const {
    expect_close(z.data(), expected.z, tolerance, what + ": z");
    const auto compare = [&](unsigned which, const Block<T>& found, const std::vector<double>& of, const char* name) {
      if ((wanted & which) != 0) expect_close(found.data(), of, tolerance, what + ": " + name);
    };
    compare(kB, d_b, expected.d_b, "d_b");
    compare(kS, d_S, expected.d_S, "d_S");
    compare(kTheta, d_theta, expected.d_theta, "d_theta");
    compare(kGain, d_gain, expected.d_gain, "d_gain");
    compare(kZ0, d_z0, expected.d_z0, "d_z0");
    for (const Block<T>* block : {&z, &d_b, &d_S, &d_theta, &d_gain, &d_z0})
      expect(block->guards_intact(), what + ": wrote outside of a result");
  }

  bool same_bits(const ListaResults& other) const {
    const auto same = [](const Block<T>& a, const Block<T>& b) {
      return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
    };
    return same(z, other.z) && same(d_b, other.d_b) && same(d_S, other.d_S) && same(d_theta, other.d_theta) &&
           same(d_gain, other.d_gain) && same(d_z0, other.d_z0);
  }

  static constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  unsigned wanted;
  Block<T> z, d_b, d_S, d_theta, d_gain, d_z0;
};

}  // namespace scvae::test

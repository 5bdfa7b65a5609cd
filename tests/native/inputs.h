// Arguments of lista and decode, drawn so that the expected results are known exactly or nearly so.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>

#include "block.h"
#include "lista.h"

namespace scvae::test {

// Quarters are small multiples of 1/4, and a row of S holds few of them: sums are never rounded, so results are exact
// for any order of summation, and ties |u| = theta are frequent and exact as well. Gaussian numbers round.
enum class Numbers { quarters, gaussian };

enum class Start { gain, z0 };

// Density of the codes. In `mixed` empty, sparse and dense rows alternate, in `blocks` groups of 24 of each.
enum class Density { zero, sparse, dense, mixed, blocks };

class Draw {
 public:
  Draw(Numbers numbers, std::uint64_t seed) : numbers_(numbers), generator_(seed) {}

  double operator()() {  // of the order of 1
    return numbers_ == Numbers::quarters ? (static_cast<double>(generator_() % 17) - 8) / 4 : normal_(generator_);
  }
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(generator_() % static_cast<std::uint64_t>(bound));
  }

 private:
  Numbers numbers_;
  std::mt19937_64 generator_;
  std::normal_distribution<double> normal_;
};

// Factor of a row of `density`, for a threshold that leaves few codes of size 1.
inline double row_scale(Density density, std::int64_t row) {
  if (density == Density::zero) return 0;
  if (density == Density::mixed) return static_cast<double>(row % 3);
  if (density == Density::blocks) return static_cast<double>(row / 24 % 3);
  return 1;
}

template <typename T>
void fill(Strided<T>& matrix, std::int64_t rows, Draw& draw, Density density = Density::dense) {
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < matrix.columns(); ++j)
      matrix.row(i)[j] = static_cast<T>(draw() * row_scale(density, i));
}

struct ListaCase {
  std::int64_t rows = 0;
  std::int64_t atoms = 1;
  std::int64_t n_iter = 0;
  Numbers numbers = Numbers::quarters;
  Start start = Start::gain;
  Density density = Density::sparse;
  bool theta_per_atom = false;
  std::int64_t gap = 0;  // elements between the rows of every matrix
  double gain = 1.5;

  std::string name() const {
    const char* const densities[] = {"no", "sparse", "dense", "mixed", "blocks of"};
    return "lista M=" + std::to_string(rows) + " K=" + std::to_string(atoms) + " T=" + std::to_string(n_iter) +
           (numbers == Numbers::quarters ? " quarters" : " gaussian") + (start == Start::z0 ? " z0 " : " gain ") +
           densities[static_cast<int>(density)] + " codes," + (theta_per_atom ? " theta per atom," : " one theta,") +
           " rows " + std::to_string(gap) + " apart, gain " + std::to_string(gain);
  }
};

template <typename T>
struct ListaInputs {
  explicit ListaInputs(const ListaCase& c)
      : rows(c.rows),
        atoms(c.atoms),
        n_iter(c.n_iter),
        start(c.start),
        theta_per_atom(c.theta_per_atom),
        b(c.rows, c.atoms, c.gap),
        S(c.atoms, c.atoms, c.gap),
        z0(c.rows, c.atoms, c.gap),
        grad(c.rows, c.atoms, c.gap),
        theta(c.theta_per_atom ? c.atoms : 1),
        gain(static_cast<T>(c.gain)) {
    Draw draw(c.numbers, static_cast<std::uint64_t>(c.rows * 1000003 + c.atoms * 1009 + c.n_iter));
    fill(b, rows, draw, c.density);
    fill(grad, rows, draw);
    draw_z0(c.density, draw);
    draw_S(c.numbers, draw);
    const double base = c.density == Density::dense ? -0.25 : 1.75;
    for (std::int64_t k = 0; k < theta.size(); ++k) theta[k] = static_cast<T>(base + 0.25 * (k % 2));
  }

  ListaProblem<T> problem() const {
    const bool warm = start == Start::z0;
    return {rows,
            atoms,
            n_iter,
            b.view(),
            S.view(),
            theta.data(),
            theta_per_atom,
            warm ? T(1) : gain,
            warm ? z0.view() : Rows<T>{}};
  }

  std::int64_t rows, atoms, n_iter;
  Start start;
  bool theta_per_atom;
  Strided<T> b, S, z0, grad;
  Block<T> theta;
  T gain;

 private:
  void draw_z0(Density density, Draw& draw) {
    fill(z0, rows, draw, density);
    for (std::int64_t m = 0; m < rows; ++m)
      for (std::int64_t k = 0; k < atoms; ++k)
        if (density != Density::dense && std::fabs(z0.row(m)[k]) <= T(1.75)) z0.row(m)[k] = T(0);
  }

  void draw_S(Numbers numbers, Draw& draw) {
    const double scale = 0.5 / std::sqrt(static_cast<double>(atoms));
    for (std::int64_t i = 0; i < atoms; ++i) {
      for (std::int64_t j = 0; j < atoms; ++j)
        S.row(i)[j] = static_cast<T>(numbers == Numbers::quarters ? 0 : draw() * scale);
      for (int entry = 0; numbers == Numbers::quarters && entry < 4; ++entry)
        S.row(i)[draw.below(atoms)] += static_cast<T>(draw.below(2) == 0 ? 0.25 : -0.25);
    }
  }
};

struct DecodeCase {
  std::int64_t rows = 0;
  std::int64_t atoms = 1;
  std::int64_t features = 1;
  Numbers numbers = Numbers::quarters;
  double density = 0.1;  // of z
  std::int64_t gap = 0;

  std::string name() const {
    return "decode M=" + std::to_string(rows) + " K=" + std::to_string(atoms) + " n=" + std::to_string(features) +
           (numbers == Numbers::quarters ? " quarters" : " gaussian") + " density " + std::to_string(density) +
           ", rows " + std::to_string(gap) + " apart";
  }
};

template <typename T>
struct DecodeInputs {
  explicit DecodeInputs(const DecodeCase& c)
      : rows(c.rows),
        atoms(c.atoms),
        features(c.features),
        z(c.rows, c.atoms, c.gap),
        D(c.features, c.atoms, c.gap),
        grad(c.rows, c.features, c.gap) {
    Draw draw(c.numbers, static_cast<std::uint64_t>(c.rows * 1000003 + c.atoms * 1009 + c.features));
    fill(D, features, draw);
    fill(grad, rows, draw);
    fill(z, rows, draw);
    for (std::int64_t m = 0; m < rows; ++m)
      for (std::int64_t k = 0; k < atoms; ++k)
        if (draw.below(1000) >= static_cast<std::int64_t>(1000 * c.density)) z.row(m)[k] = T(0);
  }

  DecodeProblem<T> problem() const { return {rows, atoms, features, z.view(), D.view()}; }

  std::int64_t rows, atoms, features;
  Strided<T> z, D, grad;
};

}  // namespace scvae::test

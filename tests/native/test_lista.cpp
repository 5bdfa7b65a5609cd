// lista, forward and backward, on finite numbers: every shape, threshold, start, density and stride.
#include <cstdint>
#include <string>
#include <type_traits>

#include "lista_results.h"
#include "suites.h"

namespace scvae::test {
namespace {

struct Shape {
  std::int64_t rows, atoms, n_iter;
};

template <typename T>
void check_exactly(const ListaCase& c) {
  const ListaInputs<T> inputs(c);
  const auto expected = lista_reference(inputs.problem(), inputs.grad.view());
  const ListaResults<T> alone(inputs, every_gradient(c.start), 1);
  alone.expect_equal_to(expected, 0, named<T>(c));
  const ListaResults<T> team(inputs, every_gradient(c.start), 3);
  expect(team.same_bits(alone), named<T>(c) + ": 3 threads give what 1 gives");
}

// Every combination of the settings.
template <typename T>
void check_settings(Shape shape) {
  for (const Density density : {Density::zero, Density::sparse, Density::dense, Density::mixed})
    for (const Start start : {Start::gain, Start::z0})
      for (const bool theta_per_atom : {false, true})
        for (const std::int64_t gap : {0, 3})
          check_exactly<T>(
              {shape.rows, shape.atoms, shape.n_iter, Numbers::quarters, start, density, theta_per_atom, gap});
}

// One combination for each density, alternating over the shapes.
template <typename T>
void check_shape(Shape shape) {
  const auto turn = shape.rows + shape.atoms + shape.n_iter;
  for (const Density density : {Density::zero, Density::sparse, Density::dense, Density::mixed})
    check_exactly<T>({shape.rows, shape.atoms, shape.n_iter, Numbers::quarters, turn % 2 == 0 ? Start::gain : Start::z0,
                      density, turn % 3 != 0, turn % 5});
}

template <typename T>
void check_subsets_of_gradients(const ListaCase& c) {
  const ListaInputs<T> inputs(c);
  const auto expected = lista_reference(inputs.problem(), inputs.grad.view());
  const unsigned every = every_gradient(c.start);
  for (unsigned wanted = 0; wanted <= every; ++wanted)
    if ((wanted & ~every) == 0)
      ListaResults<T>(inputs, wanted, 2)
          .expect_equal_to(expected, 0, named<T>(c) + " subset " + std::to_string(wanted));
}

// Numbers that round: the order of every sum shows in the last bits, and must not depend on the threads. In float a
// code may switch on by rounding, which no tolerance on gradients covers, so only the codes are compared there.
template <typename T>
void check_rounding(const ListaCase& c) {
  const ListaInputs<T> inputs(c);
  const auto expected = lista_reference(inputs.problem(), inputs.grad.view());
  const ListaResults<T> alone(inputs, every_gradient(c.start), 1);
  if (std::is_same_v<T, double>)
    alone.expect_equal_to(expected, 1e-12, named<T>(c));
  else
    expect_close(alone.z.data(), expected.z, 1e-5, named<T>(c) + ": z");
  for (const int threads : {2, 3, 5})
    expect(ListaResults<T>(inputs, every_gradient(c.start), threads).same_bits(alone),
           named<T>(c) + ": " + std::to_string(threads) + " threads give what 1 gives");
}

// Enough iterations that the last ones of sparse rows run back on their active sets, in one chunk and in two.
template <typename T>
void check_active_sets() {
  for (const Start start : {Start::gain, Start::z0})
    check_rounding<T>({51, 260, 16, Numbers::gaussian, start, Density::blocks, false, 0});
  if (!std::is_same_v<T, double>) return;  // a sum of float is exact for fewer iterations
  for (const Start start : {Start::gain, Start::z0})
    for (const Shape shape : {Shape{1, 257, 8}, {75, 257, 8}})
      check_exactly<T>({shape.rows, shape.atoms, shape.n_iter, Numbers::quarters, start, Density::blocks, true, 1});
  check_exactly<T>({245, 257, 6, Numbers::quarters, Start::gain, Density::sparse, false, 0});
  check_exactly<T>({25, 257, 8, Numbers::quarters, Start::gain, Density::sparse, false, 0, 1.0});
  check_rounding<T>({2, 257, 520, Numbers::gaussian, Start::gain, Density::sparse, false, 0});
  check_subsets_of_gradients<T>({50, 257, 8, Numbers::quarters, Start::gain, Density::blocks, true, 1});
}

template <typename T>
void check_all() {
  check_active_sets<T>();
  for (const Shape shape : {Shape{0, 5, 3},
                            {1, 1, 0},
                            {1, 1, 3},
                            {2, 3, 1},
                            {3, 2, 3},
                            {5, 15, 1},
                            {5, 16, 3},
                            {17, 17, 0},
                            {3, 31, 3},
                            {17, 33, 1}})
    check_settings<T>(shape);
  for (const Shape shape : {Shape{1, 64, 3},
                            {97, 65, 1},
                            {200, 33, 3},
                            {5, 127, 3},
                            {3, 129, 1},
                            {97, 127, 0},
                            {17, 257, 1},
                            {200, 64, 1},
                            {2, 513, 1},
                            {17, 512, 1},
                            {97, 130, 1}})
    check_shape<T>(shape);
  for (const Start start : {Start::gain, Start::z0})
    for (const std::int64_t n_iter : {0, 1, 3})
      check_subsets_of_gradients<T>({17, 33, n_iter, Numbers::quarters, start, Density::mixed, true, 1});
  for (const Density density : {Density::sparse, Density::dense, Density::mixed})
    for (const Shape shape : {Shape{97, 65, 3}, {17, 257, 1}, {200, 31, 1}})
      check_rounding<T>({shape.rows, shape.atoms, shape.n_iter, Numbers::gaussian, Start::gain, density, false, 0});
}

}  // namespace

void test_lista() {
  check_all<float>();
  check_all<double>();
}

}  // namespace scvae::test

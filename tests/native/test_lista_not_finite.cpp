// lista, forward and backward: NaN and infinity go where the formula puts them, and nowhere else.
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "lista_results.h"
#include "suites.h"

namespace scvae::test {
namespace {

const std::vector<std::string> kPlaces = {"b", "S", "z0", "theta", "gain", "grad"};

template <typename T>
void put(ListaInputs<T>& inputs, const std::string& place, T value) {
  const std::int64_t row = inputs.rows / 2;
  const std::int64_t atom = inputs.atoms - 1;
  if (place == "b") inputs.b.row(row)[atom] = value;
  if (place == "S") inputs.S.row(inputs.atoms / 2)[atom] = value;
  if (place == "z0") inputs.z0.row(row)[atom] = value;
  if (place == "theta") inputs.theta[inputs.theta.size() - 1] = value;
  if (place == "gain") inputs.gain = value;
  if (place == "grad") inputs.grad.row(row)[atom] = value;
}

template <typename T>
void check(const ListaCase& c) {
  for (const std::string& place : kPlaces)
    for (const T value : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity(),
                          -std::numeric_limits<T>::infinity()}) {
      ListaInputs<T> inputs(c);
      put(inputs, place, value);
      const auto expected = lista_reference(inputs.problem(), inputs.grad.view());
      const std::string what = named<T>(c) + " with " + std::to_string(value) + " in " + place;
      for (const int threads : {1, 3})
        ListaResults<T>(inputs, every_gradient(c.start), threads).expect_equal_to(expected, 0, what);
    }
}

}  // namespace

void test_lista_not_finite() {
  for (const Start start : {Start::gain, Start::z0})
    for (const Density density : {Density::sparse, Density::dense, Density::mixed})
      for (const std::int64_t n_iter : {0, 1, 3}) {
        check<float>({5, 33, n_iter, Numbers::quarters, start, density, true, 0});
        check<double>({5, 17, n_iter, Numbers::quarters, start, density, false, 3});
      }
  check<float>({97, 129, 1, Numbers::quarters, Start::gain, Density::sparse, false, 0});
}

}  // namespace scvae::test

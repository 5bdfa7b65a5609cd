// The Python module: addresses and sizes in, kernels called with the interpreter's lock released.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "lista.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace py = pybind11;
using namespace pybind11::literals;

namespace scvae {
namespace {

using Address = std::uintptr_t;                    // of a tensor's first element; 0 where there is none
using Strided = std::pair<Address, std::int64_t>;  // address, elements between rows

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

template <typename T>
Rows<T> rows_at(Strided matrix) {
  return {pointer<const T>(matrix.first), matrix.second};
}

struct ListaArguments {
  std::int64_t rows, atoms, n_iter;
  Strided b, S;
  Address theta;
  bool theta_per_atom;
  double gain;
  Strided z0;

  template <typename T>
  ListaProblem<T> problem() const {
    return {rows,           atoms,
            n_iter,         rows_at<T>(b),
            rows_at<T>(S),  pointer<const T>(theta),
            theta_per_atom, static_cast<T>(gain),
            rows_at<T>(z0)};
  }
};

struct DecodeArguments {
  std::int64_t rows, atoms, features;
  Strided z, D;

  template <typename T>
  DecodeProblem<T> problem() const {
    return {rows, atoms, features, rows_at<T>(z), rows_at<T>(D)};
  }
};

struct GradientAddresses {
  Address b, S, theta, gain, z0;

  template <typename T>
  ListaGradients<T> typed() const {
    return {pointer<T>(b), pointer<T>(S), pointer<T>(theta), pointer<T>(gain), pointer<T>(z0)};
  }
};

// Calls body(T{}) with the scalar type that the arguments are of.
template <typename Body>
void with_scalar(bool float64, const Body& body) {
  py::gil_scoped_release unlocked;
  if (float64)
    body(double{});
  else
    body(float{});
}

void lista_forward(bool float64, const ListaArguments& arguments, Address z, int threads) {
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::lista_forward<T>(arguments.problem<T>(), pointer<T>(z), threads);
  });
}

void lista_backward(bool float64, const ListaArguments& arguments, Strided z, Strided grad,
                    const GradientAddresses& out, int threads) {
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::lista_backward<T>(arguments.problem<T>(), rows_at<T>(z), rows_at<T>(grad), out.typed<T>(), threads);
  });
}

void decode_forward(bool float64, const DecodeArguments& arguments, Address x_hat, int threads) {
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::decode_forward<T>(arguments.problem<T>(), pointer<T>(x_hat), threads);
  });
}

void decode_backward(bool float64, const DecodeArguments& arguments, Strided grad, Address d_z, Address d_D,
                     int threads) {
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::decode_backward<T>(arguments.problem<T>(), rows_at<T>(grad), pointer<T>(d_z), pointer<T>(d_D), threads);
  });
}

// What the module was built with, and what of the instruction sets it can use this processor has.
std::map<std::string, std::string> build_info() {
  std::map<std::string, std::string> info;
  info["compiler"] = __VERSION__;
#if defined(_OPENMP)
  info["threads"] = "OpenMP";
#else
  info["threads"] = "none (built without OpenMP)";
#endif
#if defined(SCVAE_FAST_WITH_CUDA)
  info["cuda"] = "yes";
#else
  info["cuda"] = "no";
#endif
#if defined(__x86_64__)
  info["instruction set"] = __builtin_cpu_supports("avx512f")                                 ? "AVX-512"
                            : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? "AVX2 + FMA"
                                                                                              : "x86-64";
#elif defined(__aarch64__)
  info["instruction set"] = "NEON";
#else
  info["instruction set"] = "portable";
#endif
  return info;
}

}  // namespace
}  // namespace scvae

PYBIND11_MODULE(_native, m) {
  using namespace scvae;
  m.doc() = "Kernels of scvae_fast. They trust their arguments: call them through scvae_fast.ops.";
  py::class_<ListaArguments>(m, "ListaArguments")
      .def(py::init([](std::int64_t rows, std::int64_t atoms, std::int64_t n_iter, Strided b, Strided S, Address theta,
                       bool theta_per_atom, double gain, Strided z0) {
             return ListaArguments{rows, atoms, n_iter, b, S, theta, theta_per_atom, gain, z0};
           }),
           py::kw_only(), "rows"_a, "atoms"_a, "n_iter"_a, "b"_a, "S"_a, "theta"_a, "theta_per_atom"_a, "gain"_a,
           "z0"_a);
  py::class_<DecodeArguments>(m, "DecodeArguments")
      .def(py::init([](std::int64_t rows, std::int64_t atoms, std::int64_t features, Strided z, Strided D) {
             return DecodeArguments{rows, atoms, features, z, D};
           }),
           py::kw_only(), "rows"_a, "atoms"_a, "features"_a, "z"_a, "D"_a);
  py::class_<GradientAddresses>(m, "GradientAddresses")
      .def(py::init([](Address b, Address S, Address theta, Address gain, Address z0) {
             return GradientAddresses{b, S, theta, gain, z0};
           }),
           "b"_a, "S"_a, "theta"_a, "gain"_a, "z0"_a);
  m.def("lista_forward", &lista_forward, "float64"_a, "arguments"_a, "z"_a, "threads"_a);
  m.def("lista_backward", &lista_backward, "float64"_a, "arguments"_a, "z"_a, "grad"_a, "out"_a, "threads"_a);
  m.def("decode_forward", &decode_forward, "float64"_a, "arguments"_a, "x_hat"_a, "threads"_a);
  m.def("decode_backward", &decode_backward, "float64"_a, "arguments"_a, "grad"_a, "d_z"_a, "d_D"_a, "threads"_a);
  m.def("build_info", &build_info);
}

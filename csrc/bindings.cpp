// The Python module: takes addresses and sizes, and calls kernels with the interpreter's lock released; Ctrl-C stops
// them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "cpu/dictionary_update.h"
#include "cpu/group_norm_silu.h"
#include "cpu/interrupt.h"
#include "cpu/lasso.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"
#include "lista.h"

#if defined(SCVAE_FAST_WITH_CUDA)
#include "cuda_bindings.h"
#endif

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace py = pybind11;

namespace scvae {
namespace {

using Address = std::uintptr_t;  // of a tensor's first element; 0 for None. Rows are packed, one after another.

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

template <typename T>
Rows<T> rows_at(Address matrix, std::int64_t columns) {
  return {pointer<const T>(matrix), columns};
}

// Options beyond LISTA with shared weights. An `each` is a distance in elements, or 0 if all iterations share one.
struct Options {
  std::int64_t S_each, theta_each, W_e_each;
  Address step;
  bool step_each;
  Address momentum;
  bool momentum_each, kappa, factored, negated, positive;
};

struct ListaArguments {
  std::int64_t rows, atoms, n_iter;
  Address b, S, theta;
  bool theta_per_atom;
  double gain;
  Address z0;
  Options options;

  template <typename T>
  ListaProblem<T> problem() const {
    return {rows,
            atoms,
            n_iter,
            rows_at<T>(b, atoms),
            rows_at<T>(S, atoms),
            pointer<const T>(theta),
            theta_per_atom,
            static_cast<T>(gain),
            rows_at<T>(z0, atoms),
            options.S_each,
            options.theta_each,
            pointer<const T>(options.step),
            options.step_each ? 1 : 0,
            pointer<const T>(options.momentum),
            options.momentum_each ? 1 : 0,
            options.kappa,
            options.factored,
            options.negated,
            options.positive};
  }
};

struct SparseCodeArguments {
  ListaArguments lista;
  std::int64_t features;
  Address x, W_e, D;

  template <typename T>
  SparseCodeProblem<T> problem() const {
    return {lista.problem<T>(),         features,
            rows_at<T>(x, features),    rows_at<T>(W_e, features),
            rows_at<T>(D, lista.atoms), lista.options.W_e_each};
  }
};

struct DecodeArguments {
  std::int64_t rows, atoms, features;
  Address z, D;

  template <typename T>
  DecodeProblem<T> problem() const {
    return {rows, atoms, features, rows_at<T>(z, atoms), rows_at<T>(D, atoms)};
  }
};

struct GroupNormArguments {
  std::int64_t samples, channels, positions, groups;
  double eps;
  bool channels_last;
  Address x, weight, bias;

  template <typename X>
  cpu::GroupNormProblem<X> problem() const {
    return {samples,
            channels,
            positions,
            groups,
            eps,
            channels_last,
            pointer<X>(x),
            pointer<float>(weight),
            pointer<float>(bias)};
  }
};

unsigned long main_thread;  // the only one in which Python runs signal handlers

// Whether a signal's Python handler has raised, as for Ctrl-C; the exception is then pending.
bool signal_raised() {
  const py::gil_scoped_acquire locked;
  return PyErr_CheckSignals() != 0;
}

// Calls body() without the interpreter's lock; signals are handled meanwhile.
template <typename Body>
void unlocked(const Body& body) {
  try {
    const bool hears_signals = PyThread_get_thread_ident() == main_thread;
    const py::gil_scoped_release unlock;
    const cpu::Interruptible interruptible(hears_signals ? &signal_raised : nullptr);
    body();
  } catch (const cpu::Interrupted&) {
    throw py::error_already_set();
  }
}

// Calls body(T{}) with the arguments' scalar type.
template <typename Body>
void with_scalar(bool float64, const Body& body) {
  unlocked([&] {
    if (float64)
      body(double{});
    else
      body(float{});
  });
}

using OptionsTuple =
    std::tuple<std::int64_t, std::int64_t, std::int64_t, Address, bool, Address, bool, bool, bool, bool, bool>;

// None stands for no options.
Options options_of(const std::optional<OptionsTuple>& given) {
  if (!given.has_value()) return {};
  return std::apply([](auto... each) { return Options{each...}; }, *given);
}

void lista_forward(bool float64, std::int64_t rows, std::int64_t atoms, std::int64_t n_iter,
                   const std::optional<OptionsTuple>& options, Address b, Address S, Address theta, bool theta_per_atom,
                   double gain, Address z0, Address z, Address iterates, int threads) {
  const ListaArguments arguments{rows, atoms, n_iter, b, S, theta, theta_per_atom, gain, z0, options_of(options)};
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::lista_forward<T>(arguments.problem<T>(), {pointer<T>(z), pointer<T>(iterates)}, threads);
  });
}

void lista_backward(bool float64, std::int64_t rows, std::int64_t atoms, std::int64_t n_iter,
                    const std::optional<OptionsTuple>& options, Address b, Address S, Address theta,
                    bool theta_per_atom, double gain, Address z0, Address z, Address iterates, Address grad,
                    Address d_b, Address d_S, Address d_theta, Address d_gain, Address d_z0, Address d_step,
                    Address d_momentum, int threads) {
  const ListaArguments arguments{rows, atoms, n_iter, b, S, theta, theta_per_atom, gain, z0, options_of(options)};
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    const ListaGradients<T> out{pointer<T>(d_b),  pointer<T>(d_S),    pointer<T>(d_theta),   pointer<T>(d_gain),
                                pointer<T>(d_z0), pointer<T>(d_step), pointer<T>(d_momentum)};
    cpu::lista_backward<T>(arguments.problem<T>(), {pointer<T>(z), pointer<T>(iterates)}, rows_at<T>(grad, atoms), out,
                           threads);
  });
}

void sparse_code_forward(bool float64, std::int64_t rows, std::int64_t atoms, std::int64_t n_iter,
                         const std::optional<OptionsTuple>& options, std::int64_t features, Address x, Address W_e,
                         Address S, Address theta, bool theta_per_atom, Address D, double gain, Address z0, Address z,
                         Address iterates, Address x_hat, int threads) {
  const SparseCodeArguments arguments{
      {rows, atoms, n_iter, 0, S, theta, theta_per_atom, gain, z0, options_of(options)}, features, x, W_e, D};
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::sparse_code_forward<T>(arguments.problem<T>(), {pointer<T>(z), pointer<T>(iterates)}, pointer<T>(x_hat),
                                threads);
  });
}

void sparse_code_backward(bool float64, std::int64_t rows, std::int64_t atoms, std::int64_t n_iter,
                          const std::optional<OptionsTuple>& options, std::int64_t features, Address x, Address W_e,
                          Address S, Address theta, bool theta_per_atom, Address D, double gain, Address z0, Address z,
                          Address iterates, Address grad_z, Address grad_x_hat, Address d_x, Address d_W_e, Address d_S,
                          Address d_theta, Address d_D, Address d_gain, Address d_z0, Address d_step,
                          Address d_momentum, int threads) {
  const SparseCodeArguments arguments{
      {rows, atoms, n_iter, 0, S, theta, theta_per_atom, gain, z0, options_of(options)}, features, x, W_e, D};
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    const ListaGradients<T> of_lista{nullptr,          pointer<T>(d_S),    pointer<T>(d_theta),   pointer<T>(d_gain),
                                     pointer<T>(d_z0), pointer<T>(d_step), pointer<T>(d_momentum)};
    const SparseCodeGradients<T> out{of_lista, pointer<T>(d_x), pointer<T>(d_W_e), pointer<T>(d_D)};
    cpu::sparse_code_backward<T>(arguments.problem<T>(), {pointer<T>(z), pointer<T>(iterates)},
                                 rows_at<T>(grad_z, atoms), rows_at<T>(grad_x_hat, features), out, threads);
  });
}

void decode_forward(bool float64, std::int64_t rows, std::int64_t atoms, std::int64_t features, Address z, Address D,
                    Address x_hat, int threads) {
  const DecodeArguments arguments{rows, atoms, features, z, D};
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::decode_forward<T>(arguments.problem<T>(), pointer<T>(x_hat), threads);
  });
}

void decode_backward(bool float64, std::int64_t rows, std::int64_t atoms, std::int64_t features, Address z, Address D,
                     Address grad, Address d_z, Address d_D, int threads) {
  const DecodeArguments arguments{rows, atoms, features, z, D};
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::decode_backward<T>(arguments.problem<T>(), rows_at<T>(grad, features), pointer<T>(d_z), pointer<T>(d_D),
                            threads);
  });
}

// `sizes` are M, K and n; `alpha` its address, and whether each row has its own. Returns what cpu::lasso returns.
bool lasso(bool float64, std::tuple<std::int64_t, std::int64_t, std::int64_t> sizes, Address x, Address D, bool gram,
           std::tuple<Address, bool> alpha, Address z0, bool positive, double tolerance, std::int64_t sweeps,
           Address codes, Address gap, int threads) {
  const auto [rows, atoms, features] = sizes;
  const std::int64_t M = rows, K = atoms, n = features;
  const Address of_alpha = std::get<0>(alpha);
  const bool each = std::get<1>(alpha);
  bool valid = false;
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    const cpu::LassoProblem<T> problem{M,
                                       K,
                                       n,
                                       rows_at<T>(x, n),
                                       rows_at<T>(D, K),
                                       gram,
                                       rows_at<T>(of_alpha, each ? K : 0),
                                       rows_at<T>(z0, K),
                                       positive,
                                       tolerance,
                                       sweeps};
    valid = cpu::lasso<T>(problem, pointer<T>(codes), pointer<double>(gap), threads);
  });
  return valid;
}

void update_atoms(bool float64, std::int64_t atoms, std::int64_t features, Address D, Address A, Address B,
                  bool positive) {
  with_scalar(float64, [&](auto scalar) {
    using T = decltype(scalar);
    cpu::update_atoms<T>(atoms, features, pointer<T>(D), rows_at<T>(A, atoms), rows_at<T>(B, features), positive);
  });
}

// Calls body(X{}) with the element type of x.
template <typename Body>
void with_elements(bool bfloat16, const Body& body) {
  unlocked([&] {
    if (bfloat16)
      body(cpu::BFloat16{});
    else
      body(float{});
  });
}

void group_norm_silu_forward(bool bfloat16, std::int64_t samples, std::int64_t channels, std::int64_t positions,
                             std::int64_t groups, double eps, bool channels_last, Address x, Address weight,
                             Address bias, Address y, Address statistics, int threads) {
  const GroupNormArguments arguments{samples, channels, positions, groups, eps, channels_last, x, weight, bias};
  with_elements(bfloat16, [&](auto element) {
    using X = decltype(element);
    cpu::group_norm_silu_forward<X>(arguments.problem<X>(), pointer<X>(y), pointer<float>(statistics), threads);
  });
}

void group_norm_silu_backward(bool bfloat16, std::int64_t samples, std::int64_t channels, std::int64_t positions,
                              std::int64_t groups, double eps, bool channels_last, Address x, Address weight,
                              Address bias, Address grad, Address statistics, Address d_x, Address d_weight,
                              Address d_bias, int threads) {
  const GroupNormArguments arguments{samples, channels, positions, groups, eps, channels_last, x, weight, bias};
  with_elements(bfloat16, [&](auto element) {
    using X = decltype(element);
    const cpu::GroupNormGradients<X> out{pointer<X>(d_x), pointer<float>(d_weight), pointer<float>(d_bias)};
    cpu::group_norm_silu_backward<X>(arguments.problem<X>(), pointer<X>(grad), pointer<float>(statistics), out,
                                     threads);
  });
}

// How the module was built, and which of its instruction sets this processor supports.
std::map<std::string, std::string> build_info() {
  std::map<std::string, std::string> info;
  info["compiler"] = __VERSION__;
#if defined(_OPENMP)
  info["threads"] = "OpenMP";
#else
  info["threads"] = "std::thread";
#endif
#if defined(SCVAE_FAST_WITH_CUDA)
  info["cuda"] = "compiled for " SCVAE_FAST_CUDA_COMPILED_FOR;
#else
  info["cuda"] = "no: " SCVAE_FAST_WITHOUT_CUDA;
#endif
#if defined(SCVAE_FAST_LEFT_OUT)
  info["left out"] = SCVAE_FAST_LEFT_OUT;
#endif
  info["instruction set"] = cpu::instruction_set();
  return info;
}

}  // namespace
}  // namespace scvae

PYBIND11_MODULE(_native, m) {
  using namespace scvae;
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  m.doc() = "Kernels of scvae_fast. They trust their arguments: call them through scvae_fast.ops.";
  // Positional arguments, because looking names up takes longer than a small problem.
  m.def("lista_forward", &lista_forward);
  m.def("lista_backward", &lista_backward);
  m.def("sparse_code_forward", &sparse_code_forward);
  m.def("sparse_code_backward", &sparse_code_backward);
  m.def("decode_forward", &decode_forward);
  m.def("decode_backward", &decode_backward);
  m.def("lasso", &lasso);
  m.def("update_atoms", &update_atoms);
  m.def("group_norm_silu_forward", &group_norm_silu_forward);
  m.def("group_norm_silu_backward", &group_norm_silu_backward);
  m.def("build_info", &build_info);
  m.def("instruction_sets", &cpu::instruction_sets);
  m.def("release_threads", &cpu::release_threads);
#if defined(SCVAE_FAST_WITH_CUDA)
  bind_cuda(m);
#else
  m.attr("without_cuda") = SCVAE_FAST_WITHOUT_CUDA;
#endif
}

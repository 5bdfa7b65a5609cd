#include "cuda_bindings.h"

#include <cstdint>

#include "cuda/launch.h"

namespace py = pybind11;

namespace scvae {
namespace {

using Address = std::uintptr_t;  // of a tensor's first element; 0 for None

template <typename T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

// The element type, whether float32 is multiplied as three TF32 products, and the launch destination.
struct Call {
  int kind = 0;
  bool three = true;
  int device = 0;
  Address stream = 0;

  // Calls body(Launcher{}, where) with the interpreter's lock released.
  template <typename Body>
  void with(const Body& body) const {
    py::gil_scoped_release unlocked;
    const cuda::Where where{device, pointer(stream)};
    cuda::with_launcher(static_cast<cuda::Kind>(kind), three, [&](auto launcher) { body(launcher, where); });
  }
};

cuda::Numbers numbers(Address address, int kind) {
  return {pointer<const void>(address), static_cast<cuda::Kind>(kind)};
}

void pack(const Call& call, Address matrix, int kind, std::int64_t column_stride, std::int64_t depth_stride,
          std::int64_t columns, std::int64_t depth, int warps, int passes, int steps, Address packed) {
  const cuda::PackArguments a{numbers(matrix, kind), column_stride, depth_stride, columns, depth, warps, passes, steps,
                              pointer(packed)};
  call.with([&](auto launcher, const cuda::Where& where) { launcher.pack(where, a); });
}

void forward(const Call& call, const cuda::Plan& plan, std::int64_t rows, int atoms, int features, int n_iter,
             Address x, Address packed, bool encodes, bool decodes, Address theta, Address gain, int gain_kind,
             Address z0, Address drives, Address codes, std::int64_t slab, Address z, Address x_hat,
             const cuda::Family& family, bool positive, int theta_stride, Address directions) {
  cuda::ForwardArguments a;
  a.x = pointer(x);
  a.packed = pointer(packed);
  a.encodes = encodes;
  a.decodes = decodes;
  a.theta = pointer<float>(theta);
  a.gain = numbers(gain, gain_kind);
  a.z0 = pointer(z0);
  a.drives = pointer(drives);
  a.codes = pointer(codes);
  a.z = pointer(z);
  a.x_hat = pointer(x_hat);
  a.rows = rows;
  a.slab = slab;
  a.atoms = atoms;
  a.features = features;
  a.n_iter = n_iter;
  a.KP = plan.KP;
  a.NP = plan.NP;
  a.passes = plan.passes;
  a.feature_passes = plan.feature_passes;
  a.family = family;
  a.positive = positive;
  a.theta_stride = theta_stride;
  a.directions = pointer(directions);
  call.with([&](auto launcher, const cuda::Where& where) { launcher.forward(where, plan, a); });
}

void adjoint(const Call& call, const cuda::Plan& plan, std::int64_t rows, int n_iter, Address inhibition, Address codes,
             Address adjoints, std::int64_t slab, bool given, const cuda::Family& family) {
  const cuda::AdjointArguments a{
      pointer(inhibition), pointer(codes), pointer(adjoints), rows, slab, n_iter, plan.KP, plan.passes, given, family};
  call.with([&](auto launcher, const cuda::Where& where) { launcher.adjoint(where, plan, a); });
}

void product(const Call& call, const cuda::Plan& plan, std::int64_t rows, int columns, int depth, Address left,
             std::int64_t left_stride, Address right, Address out) {
  const cuda::ProductArguments a{pointer(left), pointer(right), pointer(out), rows,       left_stride,
                                 depth,         columns,        plan.NP,      plan.passes};
  call.with([&](auto launcher, const cuda::Where& where) { launcher.product(where, plan, a); });
}

void collect(const Call& call, std::int64_t rows, int KP, int n_iter, Address codes, Address adjoints,
             std::int64_t slab, Address drive, Address gain, int gain_kind, bool given, Address d_drive,
             Address d_theta, Address d_gain, const cuda::Family& family, Address directions, Address d_step,
             bool each_theta) {
  const cuda::CollectArguments a{pointer(codes),
                                 pointer(adjoints),
                                 pointer(drive),
                                 numbers(gain, gain_kind),
                                 pointer(d_drive),
                                 pointer<float>(d_theta),
                                 pointer<float>(d_gain),
                                 rows,
                                 slab,
                                 KP,
                                 n_iter,
                                 given,
                                 family.step,
                                 family.step_stride,
                                 pointer(directions),
                                 pointer<float>(d_step),
                                 each_theta,
                                 family.kappa};
  call.with([&](auto launcher, const cuda::Where& where) { launcher.collect(where, a); });
}

void outer(const Call& call, std::int64_t rows, int left_columns, int right_columns, Address left,
           std::int64_t left_stride, Address right, std::int64_t right_stride, Address sums) {
  const cuda::OuterArguments a{pointer(left),
                               pointer(right),
                               pointer<float>(sums),
                               rows,
                               left_stride,
                               right_stride,
                               cuda::rows_per_split(rows, left_columns, right_columns),
                               left_columns,
                               right_columns};
  call.with([&](auto launcher, const cuda::Where& where) { launcher.outer(where, a); });
}

}  // namespace

void bind_cuda(py::module_& m) {
  py::class_<cuda::Card>(m, "CudaCard", py::module_local())
      .def(py::init([](int major, int minor, std::int64_t shared_bytes, int multiprocessors, bool hopper) {
        return cuda::Card{major, minor, shared_bytes, multiprocessors, hopper};
      }))
      .def_readonly("major", &cuda::Card::major)
      .def_readonly("minor", &cuda::Card::minor)
      .def_readonly("shared_bytes", &cuda::Card::shared_bytes)
      .def_readonly("multiprocessors", &cuda::Card::multiprocessors)
      .def_readonly("hopper", &cuda::Card::hopper);
  py::class_<cuda::Plan>(m, "CudaPlan", py::module_local())
      .def_readonly("rows", &cuda::Plan::rows)
      .def_readonly("warps", &cuda::Plan::warps)
      .def_readonly("passes", &cuda::Plan::passes)
      .def_readonly("KP", &cuda::Plan::KP)
      .def_readonly("NP", &cuda::Plan::NP)
      .def_readonly("feature_passes", &cuda::Plan::feature_passes)
      .def_readonly("blocks", &cuda::Plan::blocks)
      .def_readonly("threads", &cuda::Plan::threads)
      .def_readonly("cluster", &cuda::Plan::cluster)
      .def_readonly("shared_bytes", &cuda::Plan::shared_bytes);
  py::class_<Call>(m, "CudaCall", py::module_local())
      .def(
          py::init([](int kind, bool three, int device, Address stream) { return Call{kind, three, device, stream}; }));
  py::class_<cuda::Family>(m, "CudaFamily", py::module_local())
      .def(py::init([](int kappa, Address step, int step_kind, int step_stride, bool each_matrix) {
        return cuda::Family{kappa, numbers(step, step_kind), step_stride, each_matrix};
      }));
  m.def("cuda_card", &cuda::card_of);
  m.def("cuda_plan",
        [](const cuda::Card& card, std::int64_t rows, std::int64_t atoms, std::int64_t features, bool product,
           int itemsize) { return cuda::planned(card, {rows, atoms, features, product}, itemsize); });
  m.def("cuda_splits", &cuda::splits);
  m.attr("cuda_oldest_major") = cuda::kOldestMajor;
  m.attr("cuda_compiled_for") = SCVAE_FAST_CUDA_COMPILED_FOR;
  m.attr("cuda_collect_rows") = cuda::kCollectRows;
  m.attr("cuda_step_bytes") = cuda::kStepBytes;
  m.attr("cuda_warp_columns") = cuda::kWarpColumns;
  m.def("cuda_pack", &pack);
  m.def("cuda_forward", &forward);
  m.def("cuda_adjoint", &adjoint);
  m.def("cuda_product", &product);
  m.def("cuda_collect", &collect);
  m.def("cuda_outer", &outer);
}

}  // namespace scvae

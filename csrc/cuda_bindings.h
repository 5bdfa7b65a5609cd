// Adds the CUDA kernels to a Python module.
#pragma once

#include <pybind11/pybind11.h>

namespace scvae {

void bind_cuda(pybind11::module_& m);

}  // namespace scvae

// The Python module of the emulated kernels: the CUDA part of scvae_fast._native, and nothing else.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "cuda/launch.h"
#include "cuda_bindings.h"

namespace scvae::cuda {

Card card_of(int) { throw std::runtime_error("the emulator has no card"); }

}  // namespace scvae::cuda

PYBIND11_MODULE(_cuda_emulated, m) { scvae::bind_cuda(m); }

"""lista by the CUDA C++ kernels of csrc/cuda."""

from scvae_fast.ops import _cuda
from scvae_fast.ops.lista._fused import Lista

SIBLING = Lista(_cuda.on_device_of)

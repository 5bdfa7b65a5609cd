"""sparse_code by the CUDA C++ kernels of csrc/cuda."""

from scvae_fast.ops import _cuda
from scvae_fast.ops.sparse_code._fused import SparseCode

SIBLING = SparseCode(_cuda.on_device_of)

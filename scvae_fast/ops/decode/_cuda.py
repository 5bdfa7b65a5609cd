"""decode by the CUDA C++ kernels of csrc/cuda."""

from scvae_fast.ops import _cuda
from scvae_fast.ops.decode._fused import Decode

SIBLING = Decode(_cuda.on_device_of)

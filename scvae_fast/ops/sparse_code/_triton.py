"""sparse_code by the Triton kernels."""

from scvae_fast.ops import _triton
from scvae_fast.ops.sparse_code._fused import SparseCode

SIBLING = SparseCode(_triton.on_device_of)

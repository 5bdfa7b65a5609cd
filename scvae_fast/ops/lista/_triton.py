"""lista by the Triton kernels."""

from scvae_fast.ops import _triton
from scvae_fast.ops.lista._fused import Lista

SIBLING = Lista(_triton.on_device_of)

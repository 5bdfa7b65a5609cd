"""decode by the Triton kernels."""

from scvae_fast.ops import _triton
from scvae_fast.ops.decode._fused import Decode

SIBLING = Decode(_triton.on_device_of)

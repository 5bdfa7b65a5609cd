"""sparse_code on the CPU: torch's matmul for the drive, then the kernels of csrc/cpu."""

from scvae_fast.ops.decode import _cpu as decode
from scvae_fast.ops.lista import _cpu as lista
from scvae_fast.ops.sparse_code._composed import Composed

SIBLING = Composed(lista, decode)

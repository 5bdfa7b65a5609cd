"""sparse_code by a set of fused kernels: encoding, all iterations and decoding in one launch."""

from __future__ import annotations

from typing import NamedTuple

import torch

from scvae_fast.ops._bottleneck import Bottleneck, Incoming, OnDevice, backward, forward
from scvae_fast.ops._library import Gradients
from scvae_fast.ops.decode._fused import Decode
from scvae_fast.ops.lista._fused import Lista
from scvae_fast.ops.sparse_code._composed import Composed
from scvae_fast.ops.sparse_code._contract import Problem


class SparseCode(NamedTuple):
    """The sibling on those kernels. Without iterations it is composed of products."""

    on_device_of: OnDevice

    def _composed(self) -> Composed:
        return Composed(Lista(self.on_device_of), Decode(self.on_device_of))

    def forward(self, p: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes z (M, K) and reconstruction x̂ (M, n)."""
        if p.n_iter == 0:
            return self._composed().forward(p)
        with self.on_device_of(p.x) as kernels:
            z, x_hat = forward(kernels, Bottleneck(*p))
        assert x_hat is not None
        return z, x_hat

    def backward(
        self,
        grad_z: torch.Tensor | None,  # (M, K)
        grad_x_hat: torch.Tensor | None,  # (M, n)
        z: torch.Tensor,  # (M, K)
        p: Problem,
        needed: list[bool],
    ) -> Gradients:
        """Gradients of x, W_e, S, theta, D, gain and z0; None where one is not needed."""
        if p.n_iter == 0:
            return self._composed().backward(grad_z, grad_x_hat, z, p, needed)
        with self.on_device_of(p.x) as kernels:
            return backward(kernels, Bottleneck(*p), Incoming(grad_z, grad_x_hat, z), needed)

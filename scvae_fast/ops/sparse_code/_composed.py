"""sparse_code as the composition of a backend's lista and decode: what a backend has that does not fuse them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from scvae_fast.ops._library import Gradients, Sibling
from scvae_fast.ops.decode import _contract as decode_contract
from scvae_fast.ops.sparse_code._contract import Problem


class Composed(NamedTuple):
    """sparse_code from two siblings of one backend. Keeps x and z; the drive b is computed again."""

    lista: Sibling
    decode: Sibling

    def forward(self, p: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes z (M, K) and reconstruction x̂ (M, n)."""
        z = self.lista.forward(p.lista())
        return z, self.decode.forward(decode_contract.Problem(z, p.D))

    def backward(
        self,
        grad_z: torch.Tensor | None,  # (M, K)
        grad_x_hat: torch.Tensor | None,  # (M, n)
        z: torch.Tensor,  # (M, K)
        p: Problem,
        needed: list[bool],
    ) -> Gradients:
        """Gradients of x, W_e, S, theta, D, gain and z0; None where one is not needed."""
        need_x, need_W_e, need_S, need_theta, need_D, need_gain, need_z0 = needed
        need_b = need_x or need_W_e
        of_lista = [need_b, need_S, need_theta, need_gain, need_z0]
        d_D = None
        if grad_x_hat is None:
            d_D = torch.zeros_like(p.D) if need_D else None
        else:
            decoded = decode_contract.Problem(z, p.D)
            through_D, d_D = self.decode.backward(grad_x_hat, decoded, [any(of_lista), need_D])
            grad_z = through_D if grad_z is None or through_D is None else grad_z + through_D
        if not any(of_lista):
            return None, None, None, None, d_D, None, None
        d_b, d_S, d_theta, d_gain, d_z0 = self.lista.backward(grad_z, z, p.lista(), of_lista)
        d_x = d_b @ p.W_e if need_x else None
        d_W_e = d_b.T @ p.x if need_W_e else None
        return d_x, d_W_e, d_S, d_theta, d_D, d_gain, d_z0

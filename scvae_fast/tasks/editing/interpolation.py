"""Interpolation between two pictures: in codes, latents and pixels."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from scvae_fast.codes import SparseCodes
from scvae_fast.codes.tiling import decode_tiled, encode_latents_tiled, encode_tiled
from scvae_fast.models import SCVAE
from scvae_fast.tasks.editing.coding import code_latents


class Interpolation(NamedTuple):
    """Pictures (3, H, W) for each share of the second picture, computed in three ways, and the interpolated codes."""

    by_codes: list[Tensor]  # decoded from (1 − t) z_a + t z_b
    by_latents: list[Tensor]  # from the codes of (1 − t) E(a) + t E(b)
    by_pixels: list[Tensor]  # (1 − t) a + t b
    codes: list[SparseCodes]


def interpolate(model: SCVAE, first: Tensor, second: Tensor, shares: Sequence[float]) -> Interpolation:
    """Interpolate between two pictures of the same size.

    D z is linear in z, so interpolating codes interpolates the latents D z that the decoder sees. At shares 0 and 1,
    this gives exactly the reconstructions of the pictures; interpolating latents gives them up to rounding.

    Args:
        model: in evaluation mode.
        first: a, (3, H, W) in −1 … 1.
        second: b, likewise.
        shares: values of t, 0 … 1 (others extrapolate).

    Returns:
        On the model's device.

    Raises:
        ValueError: the pictures are not (3, H, W), or differ in size.

    Example:
        >>> import torch
        >>> from scvae_fast import SCVAE, SCVAEConfig
        >>> from scvae_fast.tasks.editing import interpolate
        >>> model = SCVAE(SCVAEConfig.preset("pictures64")).eval()
        >>> found = interpolate(model, torch.zeros(3, 64, 64), torch.ones(3, 64, 64), [0.0, 0.5, 1.0])
        >>> len(found.codes)
        3
    """
    if first.shape != second.shape:
        raise ValueError(
            f"interpolate: first and second must have the same size, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    size = (first.shape[1], first.shape[2])
    ends = encode_tiled(model, first), encode_tiled(model, second)
    latents = encode_latents_tiled(model, first), encode_latents_tiled(model, second)
    codes = [mix_codes(*ends, share) for share in shares]
    recoded = [code_latents(model, (1 - share) * latents[0] + share * latents[1]) for share in shares]
    first, second = (each.to(latents[0].device) for each in (first, second))
    return Interpolation(
        [decode_tiled(model, each, size) for each in codes],
        [decode_tiled(model, each, size) for each in recoded],
        [(1 - share) * first + share * second for share in shares],
        codes,
    )


def mix_codes(first: SparseCodes, second: SparseCodes, share: float) -> SparseCodes:
    """(1 − share) · first + share · second.

    Raises:
        ValueError: they differ in grid or number of atoms.

    Example:
        >>> import torch
        >>> from scvae_fast.codes import SparseCodes
        >>> from scvae_fast.tasks.editing import mix_codes
        >>> a, b = (SparseCodes.of(torch.tensor([[row]])) for row in ([1.0, 0.0], [0.0, 2.0]))
        >>> mix_codes(a, b, 0.5).dense().tolist()
        [[[0.5, 1.0]]]
    """
    shapes = [(each.h, each.w, each.n_atoms) for each in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"mix_codes: first and second must have the same shape, got {shapes[0]} and {shapes[1]}")
    return SparseCodes.from_csr((1 - share) * first.csr() + share * second.csr(), (first.h, first.w))

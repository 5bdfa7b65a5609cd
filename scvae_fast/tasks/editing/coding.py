"""Codes of arbitrary latents."""

import torch
from torch import Tensor

from scvae_fast.codes import SparseCodes
from scvae_fast.models import SCVAE

# Number of codes that are dense at a time; with K = 512 they take 8 MiB.
_CELLS_AT_ONCE = 4096


@torch.no_grad()
def code_latents(model: SCVAE, latents: Tensor) -> SparseCodes:  # (n, h, w)
    """The sparse codes of latents, from the model's bottleneck.

    Raises:
        ValueError: latents are not (n, h, w).

    Example:
        >>> import torch
        >>> from scvae_fast import SCVAE, SCVAEConfig
        >>> from scvae_fast.tasks.editing import code_latents
        >>> model = SCVAE(SCVAEConfig.preset("pictures64")).eval()
        >>> codes = code_latents(model, torch.randn(256, 2, 3))
        >>> codes.h, codes.w, codes.n_atoms
        (2, 3, 512)
    """
    if latents.dim() != 3 or latents.shape[0] != model.config.n_features or 0 in latents.shape:
        raise ValueError(f"code_latents: latents must be ({model.config.n_features}, h, w), got {tuple(latents.shape)}")
    rows = max(1, _CELLS_AT_ONCE // latents.shape[2])
    bands = latents.to(model.bottleneck.dictionary).permute(1, 2, 0).split(rows)
    return SparseCodes.stack([SparseCodes.of(model.bottleneck(band)[0]) for band in bands])

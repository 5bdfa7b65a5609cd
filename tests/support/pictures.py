"""Small made-up photographs and a small model, for tests of data, training and evaluation."""

import torch
from torch import Tensor

from scvae_fast.data import Photograph
from scvae_fast.models import SCVAEConfig

TINY = SCVAEConfig(
    n_features=16,
    n_atoms=24,
    n_iter=3,
    lmbda=0.05,
    resolution=16,
    ch=6,
    ch_mult=(1, 2),
    num_res_blocks=1,
    attn_levels=(),
    mid_attention=False,
    norm_groups=2,
    norm_out=False,
)


def scene(height: int, width: int, *, seed: int = 0) -> Tensor:
    """Waves of a few directions and colours, (3, height, width) in −1 … 1."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height) / 16, torch.arange(width) / 16, indexing="ij")
    total = torch.zeros(3, height, width)
    for _ in range(4):
        across, down, phase = (torch.rand(3, generator=generator) * 6 - 3).tolist()
        colour = torch.rand(3, 1, 1, generator=generator) - 0.5
        total += colour * torch.sin(across * x + down * y + phase)
    return total.clamp(-1, 1)


def photographs() -> list[Photograph]:
    """One in colour, one in grey."""
    grey = scene(50, 40, seed=1).mean(0, keepdim=True).expand(3, -1, -1).contiguous()
    return [Photograph("waves", scene(40, 60), True), Photograph("grey", grey, False)]

"""Pictures of a dictionary's atoms: each atom decoded to an image patch."""

import torch
from torch import Tensor

from scvae_fast.models import SCVAE

_AT_ONCE = 64


@torch.no_grad()
def decode_atoms(model: SCVAE, atoms: Tensor | None = None, *, amplitude: float = 1.0, cells: int = 5) -> Tensor:
    """The change that a single atom in the middle cell makes to a grey picture.

    Args:
        model: in evaluation mode.
        atoms: (N,) int64, indices of atoms; all K if None.
        amplitude: value of the only nonzero entry of the codes.
        cells: side of the grid in cells, odd; an atom also affects the neighbours of its own cell.

    Returns:
        (N, C, side, side), side = 3 · stride pixels: half the difference between the decoded pictures for +amplitude
        and for −amplitude.
    """
    K, stride, middle = model.config.n_atoms, model.config.stride, cells // 2
    like = model.bottleneck.dictionary
    patches = []
    for some in (torch.arange(K) if atoms is None else atoms.cpu()).split(_AT_ONCE):
        codes = like.new_zeros(len(some), cells, cells, K)
        codes[torch.arange(len(some)), middle, middle, some] = amplitude
        change = (model.decode_codes(codes) - model.decode_codes(-codes)) / 2
        inner = slice((middle - 1) * stride, (middle + 2) * stride)
        patches.append(change[:, :, inner, inner])
    return torch.cat(patches)

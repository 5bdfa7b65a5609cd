"""The patches that belong to rows of codes, and decoded mean codes of clusters."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scvae_fast.models import SCVAE

CELLS = 5  # side of the grid of codes that is decoded for a patch


class Place(NamedTuple):
    """A cell of a picture."""

    picture: int  # number of the picture
    row: int
    column: int


def places_of(grids: Iterable[tuple[int, int]], rows: Iterable[int]) -> dict[int, Place]:
    """The cells of rows, by row number.

    Args:
        grids: (h, w) cells of each picture, in order; read once, until the last row is found.
        rows: row numbers, 0 or more; those beyond the last picture have no place.
    """
    found: dict[int, Place] = {}
    wanted, end = sorted(set(rows), reverse=True), 0
    for picture, (h, w) in enumerate(grids):
        start, end = end, end + h * w
        while wanted and wanted[-1] < end:
            row = wanted.pop()
            found[row] = Place(picture, *divmod(row - start, w))
        if not wanted:
            break
    return found


def cut_patch(picture: Tensor, place: Place, stride: int) -> Tensor:  # (3, H, W) -> (3, 3·stride, 3·stride)
    """A cell and one cell around it; the picture is extended with its edge pixels."""
    missing = [-side % stride for side in picture.shape[1:]]
    top, left = place.row * stride, place.column * stride
    padded = F.pad(picture[None], (stride, stride + missing[1], stride, stride + missing[0]), mode="replicate")[0]
    return padded[:, top : top + 3 * stride, left : left + 3 * stride].clone()


@torch.no_grad()
def paint_means(model: SCVAE, means: np.ndarray) -> Tensor:  # (k, K) -> (k, 3, 3·stride, 3·stride)
    """The middle of the decoded picture of a grid of cells that all have a cluster's mean code."""
    like = model.bottleneck.dictionary
    painted = []
    for mean in torch.from_numpy(means).to(like):
        painted.append(middle(model.decode_codes(mean.expand(1, CELLS, CELLS, -1)), model.config.stride)[0])
    return torch.stack(painted)


def middle(decoded: Tensor, stride: int) -> Tensor:  # (B, 3, 5·stride, 5·stride) -> (B, 3, 3·stride, 3·stride)
    """The middle cells of decoded grids, clipped, on the CPU."""
    inner = slice(stride, 4 * stride)
    return decoded[:, :, inner, inner].float().clamp(-1, 1).cpu()

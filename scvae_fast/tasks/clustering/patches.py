"""The patches behind rows of codes, and what a cluster's mean code paints."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scvae_fast.codes import CodedPicture
from scvae_fast.models import SCVAE

CELLS = 5  # side of the grid of codes that is decoded for a patch


class Place(NamedTuple):
    """A cell of a picture."""

    picture: int  # its number
    row: int
    column: int


class Places:
    """Where the rows of pictures in their order came from."""

    def __init__(self, grids: Sequence[tuple[int, int]]) -> None:
        self.grids = list(grids)
        self._starts = np.cumsum([0, *(h * w for h, w in self.grids)])

    @classmethod
    def of(cls, coded: Iterable[CodedPicture]) -> "Places":
        """Those of the codes of a file."""
        return cls([(each.codes.h, each.codes.w) for each in coded])

    def __getitem__(self, row: int) -> Place:
        """The cell of a row."""
        picture = int(np.searchsorted(self._starts, row, side="right")) - 1
        return Place(picture, *divmod(int(row - self._starts[picture]), self.grids[picture][1]))


def cut_patch(picture: Tensor, place: Place, stride: int) -> Tensor:  # (3, H, W) -> (3, 3·stride, 3·stride)
    """A cell and one cell around it; beyond its edges a picture goes on with its edge pixels."""
    missing = [-side % stride for side in picture.shape[1:]]
    top, left = place.row * stride, place.column * stride
    padded = F.pad(picture[None], (stride, stride + missing[1], stride, stride + missing[0]), mode="replicate")[0]
    return padded[:, top : top + 3 * stride, left : left + 3 * stride].clone()


@torch.no_grad()
def paint_means(model: SCVAE, means: np.ndarray) -> Tensor:  # (k, K) -> (k, 3, 3·stride, 3·stride)
    """What the decoder makes of a grid of cells that all have a cluster's mean code; the middle of it."""
    like = model.bottleneck.dictionary
    painted = []
    for mean in torch.from_numpy(means).to(like):
        painted.append(middle(model.decode_codes(mean.expand(1, CELLS, CELLS, -1)), model.config.stride)[0])
    return torch.stack(painted)


def middle(decoded: Tensor, stride: int) -> Tensor:  # (B, 3, 5·stride, 5·stride) -> (B, 3, 3·stride, 3·stride)
    """The middle cells of decoded grids, clipped, on the CPU."""
    inner = slice(stride, 4 * stride)
    return decoded[:, :, inner, inner].float().clamp(-1, 1).cpu()

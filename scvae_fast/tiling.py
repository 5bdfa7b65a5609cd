"""Pictures of any size through a model that was trained on small ones."""

from collections.abc import Callable, Iterator
from types import EllipsisType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scvae_fast.models import SCVAE

_TILES_AT_ONCE = 16

_Index = tuple[EllipsisType, slice, slice]


class TiledReconstruction(NamedTuple):
    """A picture rebuilt from one code per cell of stride x stride pixels; K atoms, h x w cells."""

    x_hat: Tensor  # (3, H, W), in −1 … 1
    active: Tensor  # (h, w) int64, how many entries of a cell's code are not zero
    usage: Tensor  # (K,) int64, how many of the codes use an atom


@torch.no_grad()
def reconstruct_tiled(
    model: SCVAE,
    picture: Tensor,
    *,
    tile: int | None = None,
    margin: int | None = None,
    on_codes: Callable[[Tensor], object] | None = None,
) -> TiledReconstruction:
    """Code a picture of any size and rebuild it, tile by tile.

    The encoder and then the decoder see overlapping tiles of the size that the model was trained on, so that group
    statistics are as in training, and the inner part of each tile is kept. The overlap gives context, not more codes:
    there is one code for each cell. Beyond its edges a picture goes on with its edge pixels.

    Args:
        model: in evaluation mode.
        picture: (3, H, W) in −1 … 1, on the model's device; there the results will be as well.
        tile: a tile's side in pixels, `model.config.resolution` by default.
        margin: pixels of context on each side of a tile; two cells by default, or as many as leave an inner part. With
            one cell, the padding of the convolutions shows as a faint grid.
        on_codes: called with the codes (rows, columns, K) of the inner part of each tile; of each cell, that is, once.

    Raises:
        ValueError: picture is not (3, H, W), or tile and margin are no multiples of the model's stride that leave
            an inner part.
    """
    stride = model.config.stride
    tile = model.config.resolution if tile is None else tile
    margin = stride * max(0, min(2, (tile // stride - 1) // 2)) if margin is None else margin
    if picture.dim() != 3 or picture.shape[0] != 3 or 0 in picture.shape:
        raise ValueError(f"reconstruct_tiled: picture must be (3, H, W), got {tuple(picture.shape)}")
    if tile % stride or margin % stride or margin < 0 or tile <= 2 * margin:
        raise ValueError(
            f"reconstruct_tiled: tile and margin must be multiples of {stride}, with tile > 2 · margin ≥ 0, "
            f"got tile {tile}, margin {margin}"
        )
    cells = _Grid(tile // stride, margin // stride)
    latents, active, usage = _encode(model, picture, cells, on_codes)
    x_hat = torch.empty(3, *(stride * side for side in active.shape), device=picture.device)
    for places, tiles in cells.tiles(latents, 1, active.shape):
        for place, decoded in zip(places, model.decode(tiles), strict=True):
            x_hat[place.outer(stride)] = decoded[place.inner(stride)]
    height, width = picture.shape[1:]
    return TiledReconstruction(x_hat[:, :height, :width].clamp(-1, 1), active, usage)


def _encode(
    model: SCVAE, picture: Tensor, cells: "_Grid", on_codes: Callable[[Tensor], object] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """D z of every cell (n, h, w), and the `active` and `usage` of a `TiledReconstruction`."""
    stride = model.config.stride
    size = torch.Size(-(-side // stride) for side in picture.shape[1:])  # (h, w)
    latents = torch.empty(model.config.n_features, *size, device=picture.device)
    active = torch.empty(size, dtype=torch.int64, device=picture.device)
    usage = torch.zeros(model.config.n_atoms, dtype=torch.int64, device=picture.device)
    for places, tiles in cells.tiles(picture, stride, size):
        encoding = model.encode(tiles)
        for place, codes, rebuilt in zip(places, encoding.codes, encoding.latents_hat, strict=True):
            latents[place.outer(1)] = rebuilt[place.inner(1)]
            kept = codes.permute(2, 0, 1)[place.inner(1)]  # (K, rows, columns)
            active[place.outer(1)] = (kept != 0).sum(0)
            usage += (kept != 0).sum((1, 2))
            if on_codes is not None:
                on_codes(kept.permute(1, 2, 0))
    return latents, active, usage


class _Place(NamedTuple):
    """The inner part of a tile, in cells."""

    top: int
    left: int
    rows: int
    columns: int
    margin: int

    def outer(self, scale: int) -> _Index:
        """Where it lies in the picture, at `scale` entries per cell."""
        return ..., _span(self.top, self.rows, scale), _span(self.left, self.columns, scale)

    def inner(self, scale: int) -> _Index:
        """Where it lies in the tile."""
        return ..., _span(self.margin, self.rows, scale), _span(self.margin, self.columns, scale)


def _span(first: int, count: int, scale: int) -> slice:
    return slice(scale * first, scale * (first + count))


class _Grid(NamedTuple):
    """A way to cover a picture with tiles: their side and their margin, in cells."""

    side: int
    margin: int

    def tiles(
        self, source: Tensor, scale: int, size: torch.Size
    ) -> Iterator[tuple[list[_Place], Tensor]]:  # source: (C, H, W)
        """Batches of tiles (B, C, scale · side, scale · side) that cover size = (h, w) cells, and their places."""
        step = self.side - 2 * self.margin
        height, width = (-(-cells // step) * step + 2 * self.margin for cells in size)
        before = scale * self.margin
        after = (scale * width - source.shape[2] - before, scale * height - source.shape[1] - before)
        padded = F.pad(source[None], (before, after[0], before, after[1]), mode="replicate")[0]
        places = [
            _Place(top, left, min(step, size[0] - top), min(step, size[1] - left), self.margin)
            for top in range(0, size[0], step)
            for left in range(0, size[1], step)
        ]
        for first in range(0, len(places), _TILES_AT_ONCE):
            batch = places[first : first + _TILES_AT_ONCE]
            rows_and_columns = [
                (_span(place.top, self.side, scale), _span(place.left, self.side, scale)) for place in batch
            ]
            yield batch, torch.stack([padded[:, rows, columns] for rows, columns in rows_and_columns])

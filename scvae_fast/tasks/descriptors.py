"""Descriptors of pictures of any size: vectors pooled from their cells."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch.nn.functional as F

from scvae_fast.codes.coding import BATCH_SIZE
from scvae_fast.data.stream import NamedPicture
from scvae_fast.models import SCVAE
from scvae_fast.models.speed import SpeedSettings
from scvae_fast.tasks.cells import CellKind, PictureCells, cells_of

# The source of a descriptor: the cells of a picture, or the whole picture scaled down.
DescriptorKind = Literal[CellKind, "thumbnail"]
Pooling = Literal["mean", "max", "signs", "use"]

# Side of a thumbnail; scikit-learn's digits have the same size.
_THUMBNAIL = 8


@dataclass(frozen=True)
class Descriptor:
    """How a picture is turned into a vector.

    Args:
        kind: "codes" (K), "latents" (n), "pixels" (of a cell, 3·stride²) and "colour" (their mean, 3) are pooled over
            cells, see `cells_of`; "thumbnail" is the picture scaled to 8 x 8 pixels, without pooling.
        pooling: "mean"; "max" of absolute values; "signs", the means of the positive and of the negative entries,
            concatenated; "use", the share of cells in which an entry is nonzero (codes only).
        grid: 1 pools over the whole picture; 2 also over each of its quarters, a spatial pyramid of two levels
            (Lazebnik, Schmid and Ponce 2006).

    For codes and latents, `describe` takes the signed square root of the pooled values, so that a few features that are
    in use everywhere don't dominate the others (the power normalisation of Fisher vectors: Perronnin, Sánchez and
    Mensink 2010). For pixels it made results worse and is not used.

    Raises:
        ValueError: kind, pooling or grid is not one of these, "use" is requested for another kind than codes, or
            pooling or grid is set for a thumbnail.
    """

    kind: DescriptorKind = "codes"
    pooling: Pooling = "signs"
    grid: int = 1

    def __post_init__(self) -> None:
        kinds = (*get_args(CellKind), "thumbnail")
        _require(self.kind in kinds, "kind", f"one of {', '.join(kinds)}", self.kind)
        _require(self.pooling in get_args(Pooling), "pooling", f"one of {', '.join(get_args(Pooling))}", self.pooling)
        _require(self.grid in (1, 2), "grid", "1 or 2", self.grid)
        _require(self.pooling != "use" or self.kind == "codes", "pooling", 'other than "use" for dense rows', "use")
        if self.kind == "thumbnail":
            _require(self.pooling == Descriptor.pooling, "pooling", "left out for thumbnail", self.pooling)
            _require(self.grid == Descriptor.grid, "grid", "left out for thumbnail", self.grid)

    @classmethod
    def parse(cls, text: str) -> "Descriptor":
        """KIND, KIND:POOLING or KIND:POOLING:GRID, as in "codes:signs:2"; a thumbnail has only the first part.

        Raises:
            ValueError: as for the class, or there are more parts.
        """
        kind, *rest = text.split(":")
        _require(len(rest) < 3 and (len(rest) < 2 or rest[1].isdecimal()), "text", "KIND[:POOLING[:GRID]]", text)
        _require(kind != "thumbnail" or not rest, "text", '"thumbnail" alone, without pooling and grid', text)
        return cls(kind, *(rest[:1] or ()), *(int(grid) for grid in rest[1:]))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self.kind if self.kind == "thumbnail" else f"{self.kind}:{self.pooling}:{self.grid}"


class Described(NamedTuple):
    """Pictures as rows of matrices, one matrix per descriptor, all in the same order."""

    names: list[str]
    rows: dict[Descriptor, np.ndarray]  # (N, d) float32 each


def describe(
    model: SCVAE,
    pictures: Iterable[NamedPicture],
    descriptors: Sequence[Descriptor],
    *,
    batch_size: int = BATCH_SIZE,
    speed: SpeedSettings | None = None,
) -> Described:
    """The descriptors of pictures of any size; pictures are read once for each kind.

    Args:
        model: in evaluation mode, on any device.
        pictures: (3, H, W) each; iterated over several times.
        descriptors: the descriptors to compute.
        batch_size: see `cells_of`.
        speed: see `cells_of`.

    Raises:
        UsageError: as `cells_of`.
    """
    names: list[str] = []
    rows: dict[Descriptor, list[np.ndarray]] = {descriptor: [] for descriptor in descriptors}
    for kind in dict.fromkeys(descriptor.kind for descriptor in descriptors):
        own = [descriptor for descriptor in rows if descriptor.kind == kind]
        names = []
        if kind == "thumbnail":
            for named in pictures:
                names.append(named.name)
                rows[own[0]].append(thumbnail(named))
            continue
        for cells in cells_of(model, pictures, kind, batch_size=batch_size, speed=speed):
            names.append(cells.name)
            for descriptor in own:
                vector = pool(cells, descriptor.pooling, descriptor.grid)
                rows[descriptor].append(_signed_root(vector) if kind in ("codes", "latents") else vector)
    return Described(names, {each: np.array(vectors) for each, vectors in rows.items()})


def thumbnail(named: NamedPicture) -> np.ndarray:  # -> (3 · 8 · 8,) float32
    """The picture scaled to 8 x 8 pixels by area averages."""
    return F.adaptive_avg_pool2d(named.picture.cpu(), _THUMBNAIL).flatten().numpy()


def pool(cells: PictureCells, pooling: Pooling, grid: int) -> np.ndarray:
    """The vector of a picture, see `Descriptor`.

    Args:
        cells: (h·w, d) rows, sparse or not.
        pooling: how the rows of a region are pooled.
        grid: 1, or 2 to add the quarters; if the number of rows or columns is odd, the quarters share the middle one.

    Returns:
        float32, (d,), or (2d,) for "signs"; five times as long with grid 2: the picture, then its quarters row by row.
    """
    regions = _regions(*cells.grid, grid)
    return np.concatenate([_pooled(cells.rows[region], pooling) for region in regions]).astype(np.float32, copy=False)


def _pooled(rows: Any, pooling: Pooling) -> np.ndarray:  # (m, d) -> (d,), of "signs" (2d,)
    if pooling == "mean":
        return _dense(rows.mean(axis=0))
    if pooling == "max":
        return _dense(abs(rows).max(axis=0))
    if pooling == "use":
        return _dense((rows != 0).mean(axis=0))
    mean, size = _dense(rows.mean(axis=0)), _dense(abs(rows).mean(axis=0))
    return np.concatenate([(size + mean) / 2, (size - mean) / 2])


def _dense(vector: Any) -> np.ndarray:
    return np.asarray(vector.toarray() if hasattr(vector, "toarray") else vector).ravel()


def _signed_root(vector: np.ndarray) -> np.ndarray:
    return np.sign(vector) * np.sqrt(np.abs(vector))


def _regions(h: int, w: int, grid: int) -> list[np.ndarray]:
    """The cell indices of the picture, and of each of its quarters."""
    index = np.arange(h * w).reshape(h, w)
    regions = [index.ravel()]
    if grid == 2:
        bands = [[slice(0, -(-side // 2)), slice(side // 2, side)] for side in (h, w)]
        regions += [index[rows, columns].ravel() for rows in bands[0] for columns in bands[1]]
    return regions


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"Descriptor: {name} must be {expected}, got {value!r}")

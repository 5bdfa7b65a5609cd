"""The cells of pictures as rows of a matrix for scikit-learn: codes, and the features that they are compared with."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scvae_fast.codes.coding import BATCH_SIZE, encode_pictures
from scvae_fast.codes.tiling import encode_latents_tiled
from scvae_fast.data.stream import NamedPicture
from scvae_fast.models import SCVAE
from scvae_fast.models.speed import SpeedSettings

# "codes": z (K), sparse; "latents": E(x) (n); "pixels": the pixels of the cell (3·stride²); "colour": their mean (3).
CellKind = Literal["codes", "latents", "pixels", "colour"]


class PictureCells(NamedTuple):
    """One row for each cell of stride x stride pixels of a picture, in row-major order."""

    name: str
    size: tuple[int, int]  # (H, W) of the picture
    grid: tuple[int, int]  # (h, w) cells
    rows: Any  # (h·w, d) float32; a scipy.sparse.csr_array for codes, otherwise an array


def cells_of(
    model: SCVAE,
    pictures: Iterable[NamedPicture],
    kind: CellKind = "codes",
    *,
    batch_size: int = BATCH_SIZE,
    speed: SpeedSettings | None = None,
) -> Iterator[PictureCells]:
    """The cells of pictures of any size, in order; memory holds a batch, or one large picture.

    Pictures are extended with their edge pixels to the next multiple of the stride, for every kind.

    Args:
        model: in evaluation mode, on any device; for "pixels" and "colour" only its stride matters.
        pictures: (3, H, W) each.
        kind: what the rows hold.
        batch_size: largest number of pictures in a batch.
        speed: how the model codes; float32 by default.

    Raises:
        ValueError: kind is not one of these.
        UsageError: codes contain NaN or infinity; the message names the picture.
    """
    if kind not in get_args(CellKind):
        raise ValueError(f"cells_of: kind must be one of {get_args(CellKind)}, got {kind!r}")
    if kind == "codes":
        for coded in encode_pictures(model, pictures, batch_size=batch_size, speed=speed):
            yield PictureCells(coded.name, coded.size, (coded.codes.h, coded.codes.w), coded.codes.csr())
        return
    speed, device = speed or SpeedSettings(), model.bottleneck.dictionary.device.type
    for named in pictures:
        with torch.no_grad(), speed.autocast(device):
            values = _values(model, named.picture, kind)  # (d, h, w)
        rows = values.flatten(1).T.contiguous().cpu().numpy().astype(np.float32, copy=False)
        yield PictureCells(named.name, named.size, (values.shape[1], values.shape[2]), rows)


def _values(model: SCVAE, picture: Tensor, kind: CellKind) -> Tensor:  # (3, H, W) -> (d, h, w)
    if kind == "latents":
        return encode_latents_tiled(model, picture).float()
    stride = model.config.stride
    missing = [-side % stride for side in picture.shape[1:]]
    padded = F.pad(picture[None], (0, missing[1], 0, missing[0]), mode="replicate")
    return (F.avg_pool2d(padded, stride) if kind == "colour" else F.pixel_unshuffle(padded, stride))[0]

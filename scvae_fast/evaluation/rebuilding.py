"""Runs pictures through a model, in batches where possible."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from scvae_fast.codes.tiling import batches_of_one_size, reconstruct_tiled
from scvae_fast.data.stream import NamedPicture
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.models.speed import SpeedSettings


class Rebuilt(NamedTuple):
    """Pictures of one size and their reconstructions."""

    names: list[str]
    x: Tensor  # (B, 3, H, W), in −1 … 1
    x_hat: Tensor  # (B, 3, H, W), clipped to −1 … 1
    tiled: bool


def rebuild(
    model: SCVAE,
    pictures: Iterable[NamedPicture],
    *,
    on_codes: Callable[[Tensor], object],
    batch_size: int = 16,
    speed: SpeedSettings | None = None,
) -> Iterator[Rebuilt]:
    """Reconstruct pictures, in order.

    A picture is processed in one piece if its sides are multiples of the model's stride and neither is longer than
    `model.config.resolution`; neighbours of one size then form a batch. Any other picture is processed in tiles, see
    `reconstruct_tiled`. So the result depends only on the picture's own size, and memory does not depend on any size.

    Args:
        model: in evaluation mode, in float32.
        pictures: (3, H, W) each.
        on_codes: called with all codes (..., K), each once.
        batch_size: largest number of pictures in a batch.
        speed: how the model runs.

    Raises:
        UsageError: a reconstruction contains NaN or infinity; the message names the picture.
    """
    device, speed = next(model.parameters()).device, speed or SpeedSettings()
    for batch, whole in batches_of_one_size(model.config, pictures, batch_size):
        x = torch.stack([named.picture for named in batch]).to(device)
        with torch.no_grad(), speed.autocast(device.type):
            x_hat = _at_once(model, x, on_codes) if whole else _in_tiles(model, x, on_codes)
        rebuilt = Rebuilt([named.name for named in batch], x, x_hat.float(), not whole)
        _check_finite(rebuilt)
        yield rebuilt._replace(x_hat=rebuilt.x_hat.clamp(-1, 1))


def _at_once(model: SCVAE, x: Tensor, on_codes: Callable[[Tensor], object]) -> Tensor:
    # Not model(x), which would also compute the loss weights.
    encoding = model.encode(x)
    on_codes(encoding.codes)
    return model.decode(encoding.latents_hat)


def _in_tiles(model: SCVAE, x: Tensor, on_codes: Callable[[Tensor], object]) -> Tensor:
    return reconstruct_tiled(model, x[0], on_codes=on_codes).x_hat[None]


def _check_finite(rebuilt: Rebuilt) -> None:
    finite = rebuilt.x_hat.isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        raise UsageError(
            f"the reconstruction of {rebuilt.names[finite.index(False)]} contains NaN or infinity: "
            "the weights of the model are broken, or the precision is too low for them"
        )

"""Streams of pictures to codes and back; memory holds one batch, or one picture that is processed in tiles."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from scvae_fast.codes.sparse import CodedPicture, SparseCodes
from scvae_fast.codes.tiling import batches_of_one_size, decode_tiled, encode_tiled, latents_of
from scvae_fast.data.stream import NamedPicture, PictureStream
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.models.speed import SpeedSettings

if TYPE_CHECKING:  # coding does not need Parquet
    from scvae_fast.codes.storage import CodeFile

BATCH_SIZE = 16


def encode_pictures(
    model: SCVAE, pictures: Iterable[NamedPicture], *, batch_size: int = BATCH_SIZE, speed: SpeedSettings | None = None
) -> Iterator[CodedPicture]:
    """Code pictures of any size, in order.

    A picture that `tiling.goes_whole` is coded in one piece, in a batch with neighbours of its size; any other one in
    tiles, see `encode_tiled`.

    Args:
        model: in evaluation mode, on any device.
        pictures: (3, H, W) each.
        batch_size: largest number of pictures in a batch.
        speed: how the model runs; float32 by default.

    Raises:
        UsageError: codes contain NaN or infinity; the message names the picture.
    """
    speed, like = speed or SpeedSettings(), model.bottleneck.dictionary
    for batch, whole in batches_of_one_size(model.config, pictures, batch_size):
        with torch.no_grad(), speed.autocast(like.device.type):
            if whole:
                dense = model.encode(torch.stack([named.picture for named in batch]).to(like)).codes
                codes = [SparseCodes.of(each) for each in dense]
            else:
                codes = [encode_tiled(model, batch[0].picture)]
        for named, own in zip(batch, codes, strict=True):
            check_finite(named.name, own)
            yield CodedPicture(named.name, named.size, own)


def encode_stream(
    model: SCVAE, stream: PictureStream, *, batch_size: int = BATCH_SIZE, speed: SpeedSettings | None = None
) -> Iterator[CodedPicture]:
    """Code the pictures of a stream, like `encode_pictures` with the same arguments.

    Batches never cross blocks of batch_size numbers: a `part` made of such blocks gives exactly the codes that these
    pictures get in the whole stream.

    Raises:
        UsageError: see `encode_pictures`.
    """
    for block in stream.blocks(batch_size):
        yield from encode_pictures(model, block, batch_size=batch_size, speed=speed)


def decode_pictures(
    model: SCVAE, coded: Iterable[CodedPicture], *, batch_size: int = BATCH_SIZE, speed: SpeedSettings | None = None
) -> Iterator[NamedPicture]:
    """Decode pictures from their codes, in order; like `encode_pictures`, with the same arguments.

    Returns:
        Pictures (3, H, W), float32, clipped to −1 … 1, on the model's device.

    Raises:
        ValueError: the codes don't fit the model's atoms or the cells of their picture; the message names the
            picture.
    """
    speed, device = speed or SpeedSettings(), model.bottleneck.dictionary.device.type
    checked = (picture.check(model.config) for picture in coded)
    for batch, whole in batches_of_one_size(model.config, checked, batch_size):
        with torch.no_grad(), speed.autocast(device):
            if whole:
                latents = torch.stack([latents_of(model, each.codes) for each in batch])
                pictures = model.decode(latents).float().clamp(-1, 1)
            else:
                pictures = decode_tiled(model, batch[0].codes, batch[0].size).float()[None]
        yield from map(NamedPicture, [each.name for each in batch], pictures)


def decode_file(
    model: SCVAE, file: "CodeFile", *, batch_size: int = BATCH_SIZE, speed: SpeedSettings | None = None
) -> Iterator[NamedPicture]:
    """Decode the pictures of a file, like `decode_pictures` with the same arguments.

    Batches never cross blocks of batch_size pictures of the file: a `part` made of such blocks gives exactly the
    pictures that the whole file gives.
    """
    coded = iter(file)
    while block := list(islice(coded, batch_size)):
        yield from decode_pictures(model, block, batch_size=batch_size, speed=speed)


def check_finite(name: str, codes: SparseCodes) -> None:
    """Check that the codes of a picture are finite.

    Raises:
        UsageError: they contain NaN or infinity; the message names the picture.
    """
    if not np.isfinite(codes.values).all():
        raise UsageError(
            f"the codes of {name} contain NaN or infinity: the weights of the model are broken, or the precision is "
            "too low for them"
        )

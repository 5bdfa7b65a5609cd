"""The pixels of clustered codes: from the pictures themselves, or decoded from the codes."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from scvae_fast.codes import SparseCodes
from scvae_fast.codes.coding import decode_pictures
from scvae_fast.codes.storage import CodeFile
from scvae_fast.data.stream import NamedPicture
from scvae_fast.models import SCVAE
from scvae_fast.tasks.clustering.patches import CELLS, Place, cut_patch, middle


class Source(Protocol):
    """A source of pixels."""

    def patches(self, places: set[Place]) -> dict[Place, Tensor]:
        """Each cell with one cell around it, (3, 3·stride, 3·stride), on the CPU."""

    def first(self, n: int) -> list[NamedPicture]:
        """The first n pictures, or all if there are fewer, on the CPU."""


class FromPictures:
    """Pixels from pictures.

    Args:
        pictures: returns a new iterator on each call, in the order of the codes.
        stride: pixels per cell.
    """

    def __init__(self, pictures: Callable[[], Iterator[NamedPicture]], stride: int) -> None:
        self._pictures, self._stride = pictures, stride

    def patches(self, places: set[Place]) -> dict[Place, Tensor]:
        """See `Source`; pictures after the last one with a place are not read."""
        found: dict[Place, Tensor] = {}
        for number, named in enumerate(islice(self._pictures(), _pictures_with(places))):
            own = (place for place in places if place.picture == number)
            found |= {place: cut_patch(named.picture.cpu(), place, self._stride) for place in own}
        return found

    def first(self, n: int) -> list[NamedPicture]:
        """See `Source`."""
        return _on_cpu(islice(self._pictures(), n))


class FromCodes:
    """Decoded pixels. A patch is decoded from the codes of 5 x 5 cells around it, without decoding a whole picture."""

    def __init__(self, model: SCVAE, file: CodeFile) -> None:
        self._model, self._file = model, file

    def patches(self, places: set[Place]) -> dict[Place, Tensor]:
        """See `Source`."""
        found: dict[Place, Tensor] = {}
        for number, coded in enumerate(islice(self._file, _pictures_with(places))):
            own = (place for place in places if place.picture == number)
            found |= {place: self._decoded(coded.codes, place) for place in own}
        return found

    def first(self, n: int) -> list[NamedPicture]:
        """See `Source`."""
        return _on_cpu(decode_pictures(self._model, islice(self._file, n)))

    @torch.no_grad()
    def _decoded(self, codes: SparseCodes, place: Place) -> Tensor:
        like, around = self._model.bottleneck.dictionary, torch.arange(CELLS) - CELLS // 2
        rows, columns = (place.row + around).clamp(0, codes.h - 1), (place.column + around).clamp(0, codes.w - 1)
        band = codes.dense(slice(int(rows[0]), int(rows[-1]) + 1), dtype=like.dtype)
        block = band[rows - rows[0]][:, columns].to(like.device)
        return middle(self._model.decode_codes(block[None]), self._model.config.stride)[0]


def _pictures_with(places: set[Place]) -> int:
    """Number of pictures, from the first one on, that contain all the places."""
    return 1 + max((place.picture for place in places), default=-1)


def _on_cpu(pictures: Iterable[NamedPicture]) -> list[NamedPicture]:
    return [NamedPicture(named.name, named.picture.cpu()) for named in pictures]

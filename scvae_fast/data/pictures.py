"""Reading and writing picture files: PNG, JPEG and whatever else Pillow reads."""

import functools
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from scvae_fast._extras import extra
from scvae_fast._files import write_atomically

with extra("scvae_fast.data", "Pillow"):
    from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Pillow knows these formats, but finds no picture in them without plug-ins.
_NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG"}
# Of a camera that was held sideways: width and height of the file are not those of the picture.
_SIDEWAYS = (5, 6, 7, 8)


class PictureError(ValueError):
    """A file can't be read as a picture; the message names the file and says why.

    Args:
        name: the file.
        reason: why.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """The suffixes of files that Pillow can decode, in lower case, each with its dot."""
    registered = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in registered if kind in Image.OPEN and kind not in _NOT_DECODED)


def is_picture_name(name: str) -> bool:
    """Whether a file of this name should be a picture; hidden files are none."""
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in picture_suffixes()


def load_picture(path: str | os.PathLike[str]) -> Tensor:
    """Read a picture as it is meant to be seen.

    The orientation that a camera noted is applied. Grey becomes three equal channels, transparent pixels are laid
    over white, 16-bit greys keep their precision, and other colour spaces (CMYK, palettes …) become RGB.

    Args:
        path: a picture file.

    Returns:
        (3, H, W), float32 in −1 … 1.

    Raises:
        PictureError: there is no such file, or it is no picture, damaged, or cut short.
    """
    return decode_picture(Path(path), str(path))


def decode_picture(source: Path | bytes, name: str) -> Tensor:
    """As `load_picture`, of a file or of the bytes of one; `name` is what an error calls it."""
    with OpenPicture(source, name) as picture:
        return to_tensor(picture.decode())


class OpenPicture:
    """A picture of which only the header has been read; a large JPEG can be decoded at a fraction of its size.

    `size` is its width and height, as it is meant to be seen.

    Args:
        source: a file, or the bytes of one.
        name: what an error calls it.
        most_pixels: pictures of more are refused before anything is decoded; Pillow's own limit holds as well.

    Raises:
        PictureError: as `load_picture`, or there are more pixels.
    """

    def __init__(self, source: Path | bytes, name: str, *, most_pixels: float = math.inf) -> None:
        if isinstance(source, Path) and not source.is_file():
            raise PictureError(name, "no such file" if not source.exists() else "not a file")
        self.name = name
        with self._errors():
            self._image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        try:
            # First: for PNG, Pillow decodes the whole picture to find the orientation.
            self._check_size(most_pixels)
            with self._errors():
                sideways = self._image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
        except PictureError:
            self._image.close()
            raise
        width, height = self._image.size
        self.size = (height, width) if sideways else (width, height)

    def _check_size(self, most_pixels: float) -> None:
        width, height = self._image.size
        if width * height > most_pixels:
            raise PictureError(
                self.name,
                f"{width} x {height} = {width * height:,} pixels are too many, at most {most_pixels:,.0f} are taken",
            )

    def decode(self, shrink: float = 1.0) -> Image.Image:
        """The picture as `load_picture` describes it, in mode RGB, or in mode F with levels 0 … 1.

        Args:
            shrink: above 1, a decoder that can do so quickly (JPEG) may shrink the picture by at most that.
        """
        with self._errors():
            if shrink > 1:
                width, height = self._image.size
                self._image.draft(None, (int(width / shrink), int(height / shrink)))
            return _plain(ImageOps.exif_transpose(self._image))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Nothing but Pillow runs inside, and its decoders report damage as errors of any type."""
        try:
            yield
        except MemoryError:
            raise
        except UnidentifiedImageError as error:
            raise PictureError(self.name, "not a picture of a known format") from error
        except Image.DecompressionBombError as error:
            raise PictureError(self.name, f"too large to be opened safely: {error}") from error
        except Exception as error:
            raise PictureError(self.name, f"can't be read: {error}") from error

    def __enter__(self) -> "OpenPicture":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._image.close()


def save_picture(path: str | os.PathLike[str], picture: Tensor) -> None:
    """Write a picture, in the format that the suffix of `path` names, whole or not at all.

    Args:
        path: the file; missing folders are made.
        picture: (3, H, W) in −1 … 1; values beyond are clipped.

    Raises:
        ValueError: picture is not (3, H, W), or the suffix is not a format that can be written.
        OSError: the file can't be written.
    """
    if picture.dim() != 3 or picture.shape[0] != 3 or 0 in picture.shape:
        raise ValueError(f"save_picture: picture must be (3, H, W), got {tuple(picture.shape)}")
    image = Image.fromarray(to_bytes(picture))
    write_atomically(path, image.save)


def to_bytes(picture: Tensor) -> np.ndarray:
    """The 8-bit form (H, W, 3) of a picture (3, H, W) in −1 … 1."""
    levels = ((picture.detach().float().clamp(-1, 1) + 1) * 127.5).round()
    return levels.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def to_tensor(image: Image.Image) -> Tensor:  # -> (3, H, W)
    """The picture (3, H, W) in −1 … 1 of an image that `OpenPicture.decode` gave."""
    values = torch.from_numpy(np.array(image))
    if image.mode == "F":
        return (values * 2 - 1).expand(3, *values.shape).contiguous()
    return values.permute(2, 0, 1).contiguous().float() / 127.5 - 1


def _plain(image: Image.Image) -> Image.Image:
    """RGB, or F with levels 0 … 1 for 16-bit greys (which Pillow also opens as 32-bit integers) and floats."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        white = 1.0 if values.dtype.kind == "f" else 65535.0
        return Image.fromarray((values.astype(np.float32) / white).clip(0, 1))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")

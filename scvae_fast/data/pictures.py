"""Reading and writing picture files: PNG, JPEG and the other `FORMATS`."""

import functools
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scvae_fast._extras import extra
from scvae_fast._files import write_atomically
from scvae_fast._limits import PIXELS_VARIABLE, most_pixels, too_large

with extra("scvae_fast.data", "Pillow"):
    from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

# Formats that are read, by Pillow's names. Of the others, some run programs (EPS, WMF), some decode before they state
# their size (ICO, ICNS), and none holds photographs.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")

# How pictures with an EXIF orientation are turned upright. From 5 on, width and height are swapped.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = 5

# Bits of white in integer greys, unless a TIFF has fewer: white is 65535 in 32-bit integers too.
_MOST_BITS = 16
# The share by which rounding may put a level outside the range.
_BEYOND = 1e-3
# TIFF's PhotometricInterpretation of greys whose level 0 is white.
_WHITE_IS_ZERO = 0

if PIXELS_VARIABLE in os.environ and Image.MAX_IMAGE_PIXELS is not None:
    # Pillow itself refuses twice as many.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, most_pixels() // 2)


class PictureError(ValueError):
    """A file can't be read as a picture; the message names the file and the reason.

    Args:
        name: the file.
        reason: the reason.

    Example:
        >>> from scvae_fast.data import PictureError
        >>> PictureError("a.png", "it is cut short").name
        'a.png'
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@functools.cache
def _readable() -> tuple[str, ...]:
    """The `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """The lower-case suffixes of the files that are read, each with its dot."""
    # Pillow opens MPO, the JPEG of some cameras, as JPEG.
    registered = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in registered if kind in (*_readable(), "MPO"))


def is_picture_name(name: str) -> bool:
    """Whether a file name looks like a picture's; hidden files don't count."""
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in picture_suffixes()


def load_picture(path: str | os.PathLike[str]) -> Tensor:
    """Read a picture as it should be displayed.

    The camera's orientation is applied. Grey becomes three equal channels, transparent pixels are blended with white,
    and other colour spaces (CMYK, palettes …) become RGB. Greys of more than 8 bits keep their precision: black is 0,
    white is 1 in floating point, 65535 in integers and the largest level in TIFFs of fewer than 16 bits, or the reverse
    if a TIFF says that 0 is white. Files with levels outside this range are refused.

    Args:
        path: a picture file.

    Returns:
        (3, H, W), float32 in −1 … 1.

    Raises:
        PictureError: there is no such file, or it is not a picture in `FORMATS`, damaged, cut short, or too large.

    Example:
        >>> import torch
        >>> from scvae_fast.data import load_picture, save_picture
        >>> save_picture("white.png", torch.ones(3, 4, 6))
        >>> load_picture("white.png").shape
        torch.Size([3, 4, 6])
    """
    return decode_picture(Path(path), str(path))


def decode_picture(source: Path | bytes, name: str) -> Tensor:
    """Like `load_picture`, for a file or its bytes; `name` is used in errors."""
    with OpenPicture(source, name) as picture:
        return to_tensor(picture.decode())


class OpenPicture:
    """A picture of which only the header has been read; a large JPEG can be decoded at a fraction of its size.

    `size` is its width and height in upright orientation.

    Args:
        source: a file, or its bytes.
        name: for errors.
        most: largest number of pixels, checked before anything is decoded; `_limits.most_pixels` by default.

    Raises:
        PictureError: as `load_picture`, or there are more pixels.
    """

    def __init__(self, source: Path | bytes, name: str, *, most: float | None = None) -> None:
        if isinstance(source, Path) and not source.is_file():
            raise PictureError(name, "no such file" if not source.exists() else "not a file")
        self.name = name
        with self._errors():
            # Given a path, Pillow would map uncompressed TIFFs into memory, and scramble those to be turned.
            self._file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        try:
            with self._errors():
                self._image = Image.open(self._file, formats=_readable())
            # Before the orientation: for PNG, Pillow decodes the whole picture to find it.
            if problem := too_large(self._image.height, self._image.width, most):
                raise PictureError(self.name, problem)
            width, height = self._image.size
            with self._errors():
                if self._image.format == "PNG" and "exif" not in self._image.info:
                    self._image.load()
                if isinstance(self._image, TiffImagePlugin.TiffImageFile):
                    # Pillow itself turns TIFFs, and some versions already swap their size.
                    tags = self._image.tag_v2
                    width, height = (
                        int(tags[each]) for each in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH)
                    )
                    orientation, self._turn = tags.get(ExifTags.Base.Orientation), None
                else:
                    orientation = _orientation(self._image)
                    self._turn = _UPRIGHT.get(orientation or 1)
        except BaseException:
            self._file.close()
            raise
        self.size = (height, width) if orientation in _UPRIGHT and orientation >= _SIDEWAYS else (width, height)

    def decode(self, shrink: float = 1.0) -> Image.Image:
        """The picture as `load_picture` describes it, in mode RGB, or in mode F with levels 0 … 1.

        Args:
            shrink: above 1, a decoder that can shrink quickly (JPEG) may shrink the picture by at most this factor.
        """
        with self._errors():
            if shrink > 1:
                width, height = self._image.size
                self._image.draft(None, (int(width / shrink), int(height / shrink)))
            return self._upright(_plain(self._image, self.name))

    def decode_levels(self) -> Image.Image:
        """The picture in its file's own mode, for instance a palette, turned upright."""
        with self._errors():
            self._image.load()
            return self._upright(self._image)

    def _upright(self, image: Image.Image) -> Image.Image:
        return image if self._turn is None else image.transpose(self._turn)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert all errors to `PictureError`: only Pillow runs inside, and its decoders raise errors of any type."""
        try:
            yield
        except (MemoryError, PictureError):
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
        self._file.close()


def save_picture(path: str | os.PathLike[str], picture: Tensor) -> None:
    """Write a picture atomically, in the format given by the suffix of `path`.

    Args:
        path: the file; missing folders are created.
        picture: (3, H, W) in −1 … 1; values outside are clipped.

    Raises:
        ValueError: picture is not (3, H, W), or the suffix is not a format that can be written.
        OSError: the file can't be written.

    Example:
        >>> import torch
        >>> from scvae_fast.data import save_picture
        >>> save_picture("black.png", -torch.ones(3, 4, 6))
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
    """The picture (3, H, W) in −1 … 1 of an image from `OpenPicture.decode`."""
    values = torch.from_numpy(np.array(image))
    if image.mode == "F":
        return (values * 2 - 1).expand(3, *values.shape).contiguous()
    return values.permute(2, 0, 1).contiguous().float() / 127.5 - 1


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation; None without EXIF data, or if they are damaged, which is no reason to reject a picture."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # its parser reports damage as errors of any type
        return None


def _plain(image: Image.Image, name: str) -> Image.Image:
    """RGB, or F with levels 0 … 1 for 16-bit greys (which Pillow also opens as 32-bit integers) and floats."""
    if image.mode.startswith("I") or image.mode == "F":
        return _precise_grey(image, name)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _precise_grey(image: Image.Image, name: str) -> Image.Image:
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    values = np.asarray(image)
    white = 1.0 if values.dtype.kind == "f" else 2.0 ** min(_bits(tags), _MOST_BITS) - 1
    levels = values.astype(np.float32) / white
    if not (levels.min() >= -_BEYOND and levels.max() <= 1 + _BEYOND):  # also catches NaN
        raise PictureError(
            name,
            f"grey levels must be 0 … {white:g} in {values.dtype}, got {values.min():g} … {values.max():g}",
        )
    levels = levels.clip(0, 1)
    # Pillow itself does what follows only for greys of up to 8 bits.
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
        levels = 1 - levels
    if (transparent := image.info.get("transparency")) is not None:  # the level of a PNG that stands for no colour
        levels[values == transparent] = 1
    return Image.fromarray(levels)


def _bits(tags: Mapping[int, Any]) -> int:
    """The bits of a grey level by a TIFF's tags; without them those of the formats that Pillow scales itself."""
    return int(tags.get(TiffImagePlugin.BITSPERSAMPLE, (_MOST_BITS,))[0])
